"""Perplexity, divergence and the protocol they are measured by."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from omniq.errors import DataError, ModelError, UsageError
from omniq.eval import base
from omniq.eval.base import EVALUATORS, evaluate
from omniq.eval.compare import compare
from omniq.eval.size import checkpoint_bytes, human_bytes
from omniq.eval.windows import EvalSpec, protocol, spread, windows

V = 17


def model(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32):
    """A causal LM as a function: the logits depend on the last two tokens."""
    table = (scale * torch.randn(2, V, V, generator=torch.Generator().manual_seed(seed))).to(dtype)

    def forward(ids: Tensor) -> Tensor:
        before = torch.roll(ids, 1, dims=1)
        return table[0][ids] + table[1][before]

    return forward


def ids_of(count: int = 5, length: int = 12) -> Tensor:
    return torch.randint(V, (count, length), generator=torch.Generator().manual_seed(9))


def by_name(original, quantised, ids: Tensor, batch: int = 1) -> dict[str, base.Row]:
    return {row.metric: row for row in evaluate(original, quantised, ids, batch)}


def slow(original, quantised, ids: Tensor) -> dict[str, float]:
    """The same figures token by token in float64, from their definitions."""
    total, count = {"ppl": 0.0, "ppl_original": 0.0, "kl": 0.0, "top1": 0.0}, 0
    for row in ids:
        p, q = (f(row[None])[0].double().softmax(-1) for f in (original, quantised))
        for t in range(len(row) - 1):
            total["ppl"] -= math.log(q[t, row[t + 1]])
            total["ppl_original"] -= math.log(p[t, row[t + 1]])
            total["kl"] += sum(float(a) * math.log(a / b) for a, b in zip(p[t], q[t], strict=True))
            total["top1"] += float(p[t].argmax() == q[t].argmax())
            count += 1
    means = {name: value / count for name, value in total.items()}
    return means | {name: math.exp(means[name]) for name in ("ppl", "ppl_original")}


def test_every_figure_equals_its_definition_in_float64() -> None:
    expected = slow(model(0), model(1), ids_of())
    found = by_name(model(0), model(1), ids_of())
    assert set(expected) == set(found) == set(EVALUATORS)
    for name, row in found.items():
        assert row.value == pytest.approx(expected[name], rel=1e-5)
        assert row.n == 5 * 11


@pytest.mark.parametrize("batch", [2, 3, 5, 64])
@pytest.mark.parametrize("chunk", [1, V * 3, 2**24])
def test_batch_and_chunk_sizes_change_nothing(batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = by_name(model(0), model(1), ids_of())
    monkeypatch.setattr(base, "CHUNK_VALUES", chunk)
    for name, row in by_name(model(0), model(1), ids_of(), batch).items():
        assert row.value == pytest.approx(one[name].value, rel=1e-6)
        assert row.n == one[name].n


def test_fewer_windows_change_numerator_and_denominator_together() -> None:
    per_window = [by_name(None, model(1), ids_of()[i : i + 1])["ppl"] for i in range(5)]
    for count in range(1, 6):
        mean = sum(math.log(row.value) * row.n for row in per_window[:count]) / sum(row.n for row in per_window[:count])
        assert by_name(None, model(1), ids_of()[:count])["ppl"].value == pytest.approx(math.exp(mean), rel=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity() -> None:
    assert by_name(None, lambda ids: torch.zeros(*ids.shape, V), ids_of())["ppl"].value == pytest.approx(V)


def test_a_model_compared_with_itself_has_no_divergence() -> None:
    same = compare(model(0), model(0), ids_of())
    assert (same.kl, same.top1, same.ppl) == (0.0, 1.0, same.ppl_original)


def test_divergence_is_from_the_original_to_the_quantised_model() -> None:
    there, back = (compare(a, b, ids_of()).kl for a, b in ((model(0, 3.0), model(1)), (model(1), model(0, 3.0))))
    assert there == pytest.approx(slow(model(0, 3.0), model(1), ids_of())["kl"], rel=1e-5)
    assert there != pytest.approx(back, rel=1e-2)
    assert min(there, back) > 0


def test_each_model_sees_each_window_once() -> None:
    seen = {0: [], 1: []}

    def watched(index: int):
        def forward(ids: Tensor) -> Tensor:
            seen[index].append(ids)
            return model(index)(ids)

        return forward

    compare(watched(0), watched(1), ids_of(), batch=2)
    assert all(torch.equal(torch.cat(batches), ids_of()) for batches in seen.values())


def test_half_precision_logits_are_normalised_in_float32() -> None:
    ids = ids_of()
    half = model(0, dtype=torch.bfloat16)
    assert by_name(None, half, ids)["ppl"].value == by_name(None, lambda x: half(x).float(), ids)["ppl"].value


def test_without_an_original_only_the_figures_that_need_none_are_measured() -> None:
    assert set(by_name(None, model(0), ids_of())) == {name for name, e in EVALUATORS.items() if e.of == "quantised"}


def test_a_token_that_the_original_excludes_adds_no_divergence() -> None:
    def masked(ids: Tensor) -> Tensor:
        return model(0)(ids).index_fill(-1, torch.tensor([3]), -torch.inf)

    ids = ids_of()
    assert math.isfinite(compare(masked, model(1), ids.where(ids != 3, 4)).kl)


@pytest.mark.parametrize("broken", [0, 1])
def test_logits_that_are_not_numbers_are_an_error_that_says_whose(broken: int) -> None:
    models = [model(0), model(1)]
    models[broken] = lambda ids: torch.full((*ids.shape, V), torch.nan)
    with pytest.raises(ModelError, match=("the original", "the quantised model")[broken]):
        compare(*models, ids_of())


def test_models_of_different_vocabularies_are_not_compared() -> None:
    with pytest.raises(ModelError, match=f"vocabulary of {V}, the other model one of 5"):
        compare(model(0), lambda ids: torch.zeros(*ids.shape, 5), ids_of())


@pytest.mark.parametrize(
    ("tokens", "length", "count"), [(100, 10, 0), (109, 10, 4), (57, 8, 7), (10, 10, 1), (1000, 3, 333)]
)
def test_windows_are_consecutive_non_overlapping_and_spread_over_the_text(tokens: int, length: int, count: int) -> None:
    found = spread(torch.arange(tokens), length, count)
    slots = tokens // length
    starts = found[:, 0]
    assert found.shape == (count or slots, length)
    assert torch.equal(found - starts[:, None], torch.arange(length).expand_as(found))
    assert (starts % length == 0).all()
    gaps = starts.diff() // length
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert starts[0] == 0
    assert slots - starts[-1] // length <= max(1, -(-slots // (count or slots)))


@pytest.mark.parametrize(
    ("tokens", "length", "count", "words"),
    [(30, 64, 0, "at most 30 tokens"), (100, 10, 11, "at most 10 windows"), (0, 10, 0, "holds 0 tokens")],
)
def test_a_text_that_is_too_short_is_an_error_that_says_what_fits(tokens, length, count, words) -> None:
    with pytest.raises(DataError, match="too few for") as error:
        spread(torch.arange(tokens), length, count, "short.txt")
    assert words in str(error.value)
    assert "short.txt" in str(error.value)


class Letters:
    """One token per character, after a BOS token (id 1) when special tokens are allowed and `bos` says so."""

    def __init__(self, bos: bool) -> None:
        self.bos = bos

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[1] * (add_special_tokens and self.bos) + [ord(c) for c in text])


@pytest.mark.parametrize(("bos", "said"), [(False, "no BOS token added"), (True, "after the tokenizer's BOS")])
def test_the_protocol_states_what_was_measured(bos: bool, said: str, tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("".join(chr(97 + i % 26) for i in range(100)))
    spec = EvalSpec(file, windows=3, length=20)
    taken = windows(spec, Letters(bos))
    sentence = protocol(spec, taken, Letters(bos))
    parts = ("3 non-overlapping windows of 20 tokens", "spread evenly", "some.txt", said, "57 predicted")
    assert all(part in sentence for part in parts)
    assert taken.shape == (3, 20)
    assert taken[0, :2].tolist() == ([1, ord("a")] if bos else [ord("a"), ord("b")])
    assert (taken == 1).sum() == (3 if bos else 0)


@pytest.mark.parametrize("settings", [{"windows": -1}, {"length": 1}, {"batch": 0}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(UsageError, match=f"evaluation {next(iter(settings))} is"):
        EvalSpec(Path("text.txt"), **settings)


def test_the_size_of_a_checkpoint_is_that_of_its_weight_files(tmp_path: Path) -> None:
    for name, size in (
        ("model-00001-of-00002.safetensors", 100),
        ("model-00002-of-00002.safetensors", 11),
        ("config.json", 7),
    ):
        (tmp_path / name).write_bytes(b"x" * size)
    assert checkpoint_bytes(tmp_path) == 111


def test_a_folder_without_weights_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        checkpoint_bytes(tmp_path)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KB"),
        (270 * 2**20, "270.0 MB"),
        (5 * 2**40, "5.0 TB"),
        (2**52, "4096.0 TB"),
    ],
)
def test_bytes_are_written_for_people(count: int, words: str) -> None:
    assert human_bytes(count) == words
