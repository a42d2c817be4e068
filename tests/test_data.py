"""Calibration tokens: drawn, sampled and cached so that equal settings, and only they, give equal tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from omniq.calibrate.data import DataSpec, drawn_windows, tokens
from omniq.calibrate.sampling import sample_from, sampled
from omniq.errors import DataError, UsageError
from omniq.text import documents, prefix


class Letters:
    """One token per character, numbered by `alphabet`; `chat` formats messages as 'role: content' lines."""

    def __init__(self, alphabet: str = "abcdefghijklmnopqrstuvwxyz .:\n0123456789", chat: bool = True) -> None:
        self.alphabet, self.chat, self.calls = alphabet, chat, 0

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(input_ids=[self.alphabet.index(c) for c in text])

    def get_vocab(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.alphabet)}

    def apply_chat_template(self, messages: list[dict], *, tokenize: bool) -> str:
        if not self.chat:
            raise ValueError("no chat template is set")
        return "".join(f"{m['role']}: {m['content']}\n" for m in messages)


TEXT = "".join(f"sentence {i} of a text that goes on. " for i in range(200))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def spec_of(source: str, **settings) -> DataSpec:
    return DataSpec(**{"source": source, "samples": 6, "length": 32, **settings})


def read(
    spec: DataSpec, tokenizer: Letters | None = None, model_key: str = "model", cache: Path | None = None, generate=None
):
    return tokens(spec, tokenizer or Letters(), model_key=model_key, generate=generate, cache=cache)


def counting(start: int = 0):
    """A generate callable whose tokens count up, and which remembers its calls."""

    def generate(samples: int, length: int, seed: int) -> torch.Tensor:
        generate.calls.append((samples, length, seed))
        return (torch.arange(samples * length) + start + seed).view(samples, length)

    generate.calls = []
    return generate


@pytest.mark.parametrize("extra", [0, 1, 7, 500])
@pytest.mark.parametrize("seed", range(5))
def test_windows_never_overlap_and_hold_consecutive_tokens(extra: int, seed: int) -> None:
    ids = torch.arange(6 * 32 + extra)
    drawn = drawn_windows(ids, spec_of("x", seed=seed))
    assert drawn.shape == (6, 32)
    assert len(drawn.unique()) == drawn.numel()
    assert torch.equal(drawn - drawn[:, :1], torch.arange(32).expand(6, 32))


def test_windows_reach_every_part_of_the_text() -> None:
    ids = torch.arange(400)
    seen = torch.cat([drawn_windows(ids, spec_of("x", samples=2, seed=seed)).flatten() for seed in range(200)])
    assert len(seen.unique()) == len(ids)


@pytest.mark.parametrize(("samples", "length", "words"), [(7, 32, "at most 6 samples"), (1, 300, "at most 200 tokens")])
def test_too_little_text_is_an_error_that_names_what_there_is_what_is_needed_and_what_fits(
    samples, length, words
) -> None:
    with pytest.raises(DataError, match="holds 200 tokens") as error:
        drawn_windows(torch.arange(200), spec_of("x", samples=samples, length=length))
    assert f"need {samples * length}" in str(error.value)
    assert words in str(error.value)


def test_equal_settings_give_equal_tokens_and_each_setting_changes_them(text: str) -> None:
    base = read(spec_of(text))
    assert torch.equal(base.ids, read(spec_of(text)).ids)
    assert base.fingerprint == read(spec_of(text)).fingerprint
    for change in ({"seed": 1}, {"samples": 5}, {"length": 31}):
        assert read(replace(spec_of(text), **change)).fingerprint != base.fingerprint


def test_the_description_names_source_numbers_and_seed(text: str) -> None:
    description = read(spec_of(text, seed=3)).description
    assert all(part in description for part in (text, "6 sequences", "32 tokens", "seed 3"))


def test_tokens_sampled_from_the_model_are_the_default_and_the_description_says_so() -> None:
    assert DataSpec().source == "self"
    generate = counting()
    data = read(spec_of("self", seed=4), generate=generate)
    assert generate.calls == [(6, 32, 4)]
    assert torch.equal(data.ids.flatten(), torch.arange(192) + 4)
    assert "the model wrote itself" in data.description


# Every entry must lead to another cache file; the default stands for the unchanged run.
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"samples": 5},
        {"length": 31},
        {"tokenizer": Letters("zyxwvutsrqponmlkjihgfedcba .:\n0123456789")},
        {"content": TEXT + "more. "},
        {"model_key": "other", "source": "self"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_cache_key_holds_everything_that_matters(change: dict, tmp_path: Path) -> None:
    cache, file = tmp_path / "cache", tmp_path / "text.txt"

    def run(
        model_key: str = "model",
        source: str = str(file),
        content: str = TEXT,
        tokenizer: Letters | None = None,
        **settings,
    ):
        file.write_text(content)
        return read(spec_of(source, **settings), tokenizer, model_key, cache, counting())

    kept = {key: value for key, value in change.items() if key == "source"}
    run(**kept)
    before = set(cache.iterdir())
    run(**kept)
    assert set(cache.iterdir()) == before
    run(**change)
    assert len(set(cache.iterdir()) - before) == 1


def test_tokenizers_with_one_vocabulary_that_split_differently_do_not_share_a_cache(text: str, tmp_path: Path) -> None:
    class Pairs(Letters):
        def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
            return SimpleNamespace(
                input_ids=super().__call__(text, add_special_tokens=add_special_tokens).input_ids[::-1]
            )

    Pairs.__qualname__ = Letters.__qualname__
    first, second = (read(spec_of(text), tokenizer, cache=tmp_path / "c") for tokenizer in (Letters(), Pairs()))
    assert first.fingerprint != second.fingerprint


def test_cached_tokens_are_read_instead_of_sampled_again(tmp_path: Path) -> None:
    generate = counting()
    first = read(spec_of("self"), cache=tmp_path, generate=generate)
    second = read(spec_of("self"), cache=tmp_path, generate=generate)
    assert len(generate.calls) == 1
    assert torch.equal(first.ids, second.ids)
    assert (first.description, second.notice) == (second.description, None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-8]),
        lambda file: file.write_bytes(b"\xff" * 64),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"I64"', b'"F64"')),
        lambda file: file.write_bytes(file.read_bytes()[:-8] + b"\xff" * 8),
    ],
    ids=["empty", "truncated", "noise", "other dtype", "negative id"],
)
def test_a_damaged_cache_is_made_again_and_said(damage, tmp_path: Path) -> None:
    first = read(spec_of("self"), cache=tmp_path, generate=counting())
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    damage(file)
    again = read(spec_of("self"), cache=tmp_path, generate=counting())
    assert torch.equal(first.ids, again.ids)
    assert "damaged" in again.notice
    assert str(file) in again.notice
    assert again.description == first.description
    assert file.read_bytes() == sound


def test_text_tables_and_conversations_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"text": "first", "other": "eins"}, {"text": "second", "other": "zwei"}]
    (tmp_path / "a.txt").write_text("first\n\nsecond")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert prefix(documents(str(tmp_path / name)), 1000) == ("first\n\nsecond", False)
    for name in ("a.jsonl", "a.parquet"):
        assert list(documents(str(tmp_path / name), column="other")) == ["eins", "zwei"]


def test_conversations_pass_through_the_chat_template(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    file.write_text(json.dumps({"messages": messages}))
    formatted = "user: hello\nassistant: good day\n"
    data = read(spec_of(str(file), samples=1, length=len(formatted)))
    assert "".join(Letters().alphabet[i] for i in data.ids[0]) == formatted


def test_conversations_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
    with pytest.raises(DataError, match=r"cannot format them.*give plain text"):
        read(spec_of(str(file)), Letters(chat=False))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, "there is no file"),
        ("no/such/place", None, "there is no file"),
        ("a.csv", b"text", "read from .txt, .jsonl and .parquet"),
        ("a.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("a.txt", b" \n ", "holds no text"),
        ("a.jsonl", b'{"text": "x"}\nnonsense', "line 2 is not JSON"),
        ("a.jsonl", b'{"body": "x"}', "the column 'text' does not exist; the columns are body"),
        ("a.jsonl", b"[1, 2]", "expected an object"),
        ("a.parquet", b"PAR1 this is none", "not a readable parquet file"),
    ],
)
def test_data_that_cannot_be_read_is_named_with_the_reason(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(spec_of(str(tmp_path / name)))


def test_a_hub_data_set_that_cannot_be_read_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"org/name.*Couldn't reach.*without a network give a local"):
        read(spec_of("org/name"))


def test_hub_data_sets_are_read_with_configuration_split_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets, asked = pytest.importorskip("datasets"), []

    def load(*args, **kwargs):
        asked.append((args, kwargs["split"]))
        return iter([{"body": TEXT}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = read(spec_of("org/name:config", split="valid", column="body"))
    assert asked == [(("org/name", "config"), "valid")]
    assert "hub data set org/name:config, split valid" in data.description


def test_only_the_beginning_of_a_large_source_is_read() -> None:
    def endless():
        while True:
            yield "x" * 100

    assert prefix(endless(), 250) == ("\n\n".join(["x" * 100] * 3), True)


@pytest.mark.parametrize(
    "settings", [{"samples": 0}, {"length": 1}, {"seed": -1}, {"samples": "many"}, {"length": 2.5}]
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(UsageError, match=f"calibration {name} is"):
        DataSpec(**settings)


class Bigram(nn.Module):
    """A causal LM whose next token depends on the last one alone; its cache is the number of tokens seen."""

    def __init__(self, vocab: int = 11) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(0)))
        self.fed: list[tuple[int, ...]] = []

    def forward(
        self, input_ids: torch.Tensor, past_key_values: int | None = None, use_cache: bool = True
    ) -> SimpleNamespace:
        self.fed.append(tuple(input_ids.shape))
        return SimpleNamespace(
            logits=self.table[input_ids], past_key_values=(past_key_values or 0) + input_ids.shape[1]
        )


def test_sampling_is_fixed_by_its_seed_whatever_the_batch() -> None:
    model = Bigram()
    runs = [sample_from(model, 0, 7, 20, seed, vocab=11, batch=batch) for seed, batch in ((3, 2), (3, 7), (4, 7))]
    assert runs[0].shape == (7, 20)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(("bos", "first_step"), [(None, 1), (0, 2)])
def test_each_token_is_fed_once(bos: int | None, first_step: int) -> None:
    model = Bigram()
    ids = sample_from(model, bos, 3, 10, 0, vocab=11, batch=3)
    assert model.fed == [(3, first_step)] + [(3, 1)] * (9 - first_step)
    assert bos is None or (ids[:, 0] == bos).all()


def test_sampled_tokens_follow_the_models_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -2.0, 3.0])
    draws = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    found = sampled(logits.expand(10000, 4), draws, 1.0).flatten().bincount(minlength=4) / 10000
    assert torch.allclose(found, logits.softmax(-1), atol=2e-4)


def test_sampling_stays_below_the_given_vocabulary() -> None:
    model = Bigram()
    with torch.no_grad():
        model.table[:, 7:] += 20
    assert sample_from(model, None, 5, 30, 0, vocab=7).max() < 7


def test_a_low_temperature_takes_the_likeliest_token() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    drawn = sampled(logits, torch.full((50,), 0.9, dtype=torch.float64), 1e-4)
    assert torch.equal(drawn.flatten(), logits.argmax(-1))


def test_sampling_a_transformers_model_with_its_cache_equals_sampling_it_without() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, max_position_embeddings=64, initializer_range=0.5, **sizes)
    ).eval()

    class Uncached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.seen = model, None

        def forward(
            self, input_ids: torch.Tensor, past_key_values: torch.Tensor | None, use_cache: bool
        ) -> SimpleNamespace:
            ids = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], dim=1)
            return SimpleNamespace(logits=self.inner(input_ids=ids, use_cache=False).logits, past_key_values=ids)

    assert torch.equal(sample_from(model, 1, 4, 24, 0, vocab=64), sample_from(Uncached(), 1, 4, 24, 0, vocab=64))


class WithBos(Letters):
    """A tokenizer that itself puts token 999 before a text."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        ids = super().__call__(text, add_special_tokens=False).input_ids
        return SimpleNamespace(input_ids=[999] * add_special_tokens + ids)


def test_every_sequence_begins_with_the_tokenizers_own_bos_and_keeps_its_length(tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    file.write_text("".join(chr(97 + i % 26) for i in range(400)))
    spec = DataSpec(str(file), 4, 20)
    ids = tokens(spec, WithBos(), model_key="m", generate=None, cache=None).ids
    assert ids.shape == (4, 20)
    assert (ids[:, 0] == 999).all()
    assert (ids[:, 1:] != 999).all()
