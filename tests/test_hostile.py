"""Files as an attacker would write them: nothing of theirs runs, is followed out of its folder, or fills the memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from confined import confined
from damage import BOMB
from gguf import GGUFReader
from tiny import save_tiny, tiny_tokenizer
from tiny_gguf import save_tiny_gguf

from omniq import hf, pipeline
from omniq.audit.store import found_from_dict
from omniq.calibrate.data import DataSpec, calibration_text
from omniq.checkpoint import Reader
from omniq.errors import LONGEST, DataError, ModelError, OmniqError, UsageError
from omniq.formats.base import FORMATS
from omniq.formats.patterns import matches
from omniq.gguf_header import BLOCKS, check_gguf
from omniq.hf import load_dense, load_tokenizer, open_model, resolve
from omniq.knowledge.rows import rows
from omniq.recipe import Recipe, read_recipe
from omniq.runtime import load
from omniq.source import located
from omniq.spec import LinearSpec
from omniq.text import documents


def put(folder: Path, name: str, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    path = folder / name
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def refused(call: Callable[[], object], words: str, error: type[OmniqError] = ModelError) -> None:
    with pytest.raises(error, match=words):
        call()


class Trap:
    """A pickle of it makes the file `mark` when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_refused_with_a_word_on_safetensors_and_never_loaded(
    name: str, model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for call in (located, lambda folder, *_: open_model(folder), lambda folder, *_: Reader(folder)):
        refused(lambda call=call: call(str(model) if call is located else model, None, False), "pickles.*safetensors")
    refused(lambda: load(model), "pickles.*safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_calls_itself_safetensors_is_never_loaded(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for call in (open_model, load_dense, load):
        refused(lambda call=call: call(model), "not a safetensors file|too short")
    assert not (tmp_path / "ran").exists()


AUTO = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoTokenizer": ["evil.Evil", "evil.Evil"],
}


@pytest.mark.parametrize("kind", ["llama", "evil", ["llama"], None])
@pytest.mark.parametrize("call", [open_model, load_dense, load_tokenizer, lambda m: resolve(str(m), work=m.parent)])
def test_code_that_a_folder_brings_along_is_not_run_unless_allowed(
    call: Callable[[Path], object], kind: object, model: Path, tmp_path: Path
) -> None:
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    put(model, "config.json", model_type=kind, auto_map=AUTO)
    put(model, "tokenizer_config.json", tokenizer_class="Evil", auto_map=AUTO)
    put(model, "generation_config.json", custom_generate="evil", auto_map=AUTO)
    with suppress(ModelError):  # a folder whose own model type transformers knows is loaded without the code
        call(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "..",
        "a/b.safetensors",
        "a\\b.safetensors",
        "a\0.safetensors",
        "",
    ],
)
def test_an_index_cannot_name_a_file_elsewhere(file: str, model: Path) -> None:
    shutil.copyfile(model / "model.safetensors", model.parent / "secret.safetensors")
    (model / "model.safetensors").unlink()
    put(model, "model.safetensors.index.json", weight_map={"a": file})
    refused(lambda: Reader(model), "expected the plain name of a .safetensors file")


@pytest.mark.parametrize("name", ["LICENSE", "vocab.txt", "extra.json", "tool.py"])
def test_a_link_out_of_the_folder_is_not_copied_into_a_checkpoint(name: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    (model / name).symlink_to(tmp_path / "key")
    recipe = Recipe(LinearSpec.parse("W4A16g32"), "rtn")
    refused(lambda: pipeline.quantize(str(model), tmp_path / "out", recipe), f"{name} is a link to .*key, outside of")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "model"]


def test_links_as_the_hub_library_makes_them_are_followed(whole: Path, tmp_path: Path) -> None:
    from omniq.assemble import copied_files

    (snapshot := tmp_path / "models--a--b" / "snapshots" / "1f").mkdir(parents=True)
    (blobs := tmp_path / "models--a--b" / "blobs").mkdir()
    for path in whole.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / path.name)
    assert {path.name for path in copied_files(snapshot)} >= {"tokenizer.json", "tokenizer_config.json"}


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(model: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).unlink()
        os.mkfifo(model / name)
    refused(lambda: open_model(model), "no such|No such|cannot read|holds no|not a")
    refused(lambda: load_tokenizer(model), "has no tokenizer")


def huge(shape: list[int], dtype: str = "F32") -> bytes:
    """A safetensors file that describes a tensor it does not hold."""
    nbytes = 4
    for n in shape:
        nbytes *= n
    text = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 64


@pytest.mark.parametrize("shape", [[2**40], [2**20, 2**20], [2**31, 2**31], [1] * 100_000, [2**62] * 30_000])
def test_a_shape_larger_than_the_file_is_refused_before_anything_is_allocated(shape: list[int], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        huge(shape[:64]) if len(shape) < 65 else huge([1]).replace(b"[1]", str(shape).encode())
    )

    def case(seed: int):
        return 1000, lambda: Reader(tmp_path)

    (outcome,) = confined(case, [0])
    assert outcome.kind == "refused", outcome
    assert outcome.bytes < 2**25


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_hidden_layers", 2**31),
        ("num_hidden_layers", 10**12),
        ("hidden_size", 2**40),
        ("vocab_size", 2**40),
        ("intermediate_size", 2**33),
        ("head_dim", 2**34),
        ("num_attention_heads", 2**31),
        ("n_layer", 2**40),
    ],
)
@pytest.mark.parametrize("call", [open_model, load_dense])
def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused_in_bounds(
    call: Callable[[Path], object], setting: str, value: int, model: Path
) -> None:
    put(model, "config.json", **{setting: value})
    (outcome,) = confined(lambda seed: (10**6, lambda: call(model)), [0])
    assert outcome.kind == "refused", outcome


@pytest.mark.parametrize("number", [2**31, 10**9])
def test_a_mixture_of_absurdly_many_experts_is_refused_in_bounds(number: int, tmp_path: Path) -> None:
    model = save_tiny("mixtral", tmp_path / "model")
    put(model, "config.json", num_local_experts=number)
    (outcome,) = confined(lambda seed: (10**6, lambda: open_model(model)), [0])
    assert outcome.kind == "refused", outcome


HOSTILE_PATTERNS = ["(x+x+)+y", "((a|ab)(c|bcd)*)*$", "(.*)*" * 8 + "!", "(.*a){25}", "(?:(?:.+)+)+z"]


@pytest.mark.parametrize("pattern", HOSTILE_PATTERNS)
def test_an_expression_that_never_ends_is_refused_or_answered_at_once(pattern: str) -> None:
    began = time.process_time()
    with suppress(ModelError):
        matches(pattern, "x" * 60 + "model.layers.0.self_attn.q_proj" * 3)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "pattern", [r".*\.experts\.\d+\..*", "model.layers.([3-9]|1[0-9]).mlp", "^lm_head$", ".*proj", "a(?!b)"]
)
@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj", "a.experts.11.w1", "lm_head", "ab", ""])
def test_expressions_match_as_those_of_python_do(pattern: str, name: str) -> None:
    assert matches(pattern, name) == (re.match(pattern, name) is not None)


@pytest.mark.parametrize("pattern", ["(", "[", "*a", "(?P<a"])
def test_an_expression_that_is_none_is_refused(pattern: str) -> None:
    refused(lambda: matches(pattern, "a"), "regular expression .* is not valid")


def test_every_format_meets_hostile_expressions_with_a_sentence() -> None:
    names = tuple(f"model.layers.{i}.self_attn.q_proj" + "x" * 40 for i in range(4))
    evil = "(x+x+)+y"
    configs = [
        {"quant_method": "gptq", "bits": 4, "dynamic": {f"-:.*{evil}": {}}},
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f".*{evil}"]},
        {"quant_method": "compressed-tensors", "quantization_status": "compressed", "format": "pack-quantized",
         "config_groups": {"g": {"targets": [f"re:.*{evil}"], "weights": {"num_bits": 4, "strategy": "channel"}}}},
    ]  # fmt: skip
    began = time.process_time()
    for _, form in FORMATS.items():
        for config in configs:
            with suppress(OmniqError):
                form.parse(config, names)
    assert time.process_time() - began < 2


YAMLS = {
    "aliases that multiply": (BOMB + "options: *i\n", "repeats \\*a; write the value again"),
    "an alias of itself": ("options: &o {let: *o}\n", "repeats \\*o"),
    "an object of Python": ("data: !!python/object/apply:os.mkdir [ran]\n", "could not determine a constructor"),
    "lists in lists": ("options: " + "[" * 5000, "nested too deeply"),
    "a key twice": ("seed: 1\nseed: 2\n", "line 2 gives 'seed' a second time"),
    "a date that is none": ("seed: 2020-99-99\n", "month must be in 1..12"),
    "a number without end": ("seed: " + "9" * 5000 + "\n", "limit"),
    "lists without number": ("options: " + "[" * 60_000, "nested too deeply"),
    "megabytes": ("seed: 1 #" + "x" * 2**21, "characters, more than"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_a_recipe_cannot_run_code_or_grow_without_end(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, words = YAMLS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    (outcome,) = confined(lambda seed: (len(text), lambda: read_recipe(tmp_path / "recipe.yaml")), [0])
    assert outcome.kind == "refused", outcome
    refused(lambda: read_recipe(tmp_path / "recipe.yaml"), words, UsageError)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_value_of_set_is_read_under_the_same_rules() -> None:
    from omniq.choices import assignments

    assert assignments(["damp=0.1", "order=false", "a-b=[1, 2]"]) == {"damp": 0.1, "order": False, "a_b": [1, 2]}
    for value in ("2020-99-99", "&a [*a]", "[" * 3000):
        refused(lambda value=value: assignments([f"damp={value}"]), "--set .* is not valid YAML", UsageError)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound GGUF file."""
    save_tiny_gguf(file := tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    check_gguf(file)
    return file.read_bytes()


def scalars(kind: int, count: int) -> bytes:
    """A GGUF file with one setting, a list that says it has `count` values of a type."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, kind, count)


GGUFS = {
    "a list without end": (scalars(0, 2**62), "claim more than"),
    "texts without end": (scalars(8, 2**20) + b"\0" * 100, "in the middle"),
    "lists in lists": (scalars(9, 2), "a list of lists"),
    "more tensors than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9223372036854775808 tensors"),
    "a name without end": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + b"x" * 64, "a name of"),
    "an unknown type": (scalars(0, 0)[:-16] + struct.pack("<I", 77) + b"\0" * 12, "of the unknown type 77"),
    "another version": (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "of version 99"),
    "nothing": (b"GGUF", "in the middle"),
}


@pytest.mark.parametrize("case", GGUFS)
def test_a_gguf_file_that_lies_is_refused_before_a_library_reads_it(case: str, tmp_path: Path) -> None:
    raw, words = GGUFS[case]
    (tmp_path / "a.gguf").write_bytes(raw)
    refused(lambda: check_gguf(tmp_path / "a.gguf"), words)
    refused(lambda: resolve(str(tmp_path / "a.gguf"), work=tmp_path / "work"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_tensor_that_reaches_beyond_a_gguf_file_is_refused(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(packed[:-64])
    refused(lambda: check_gguf(tmp_path / "a.gguf"), "ends at byte .* cut off")


def test_a_gguf_file_cannot_ask_for_a_model_larger_than_itself(packed: bytes, tmp_path: Path) -> None:
    for key in (b"llama.block_count", b"llama.feed_forward_length", b"llama.vocab_size"):
        at = packed.index(key) + len(key) + 4
        (tmp_path / "a.gguf").write_bytes(packed[:at] + struct.pack("<I", 2**20) + packed[at + 4 :])
        (outcome,) = confined(lambda seed: (10**6, lambda: hf.convert_gguf(tmp_path / "a.gguf", tmp_path / "out")), [0])
        assert outcome.kind == "refused", (key, outcome)


def test_the_sizes_of_gguf_blocks_are_those_of_the_gguf_package(packed: bytes, tmp_path: Path) -> None:
    from gguf import GGML_QUANT_SIZES

    known = {int(kind): tuple(sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert {kind: known.get(kind, sizes) for kind, sizes in BLOCKS.items()} == BLOCKS
    assert len(set(known) & set(BLOCKS)) > 25
    (tmp_path / "a.gguf").write_bytes(packed)
    assert len(GGUFReader(tmp_path / "a.gguf").tensors) > 10


TOKENIZERS = {
    "not text": b"\xff\xfe\x00" * 100,
    "empty": b"",
    "a list": b"[1, 2]",
    "an unknown model": b'{"version": "1.0", "model": {"type": "Evil"}}',
    "lists in lists": b"[" * 100_000,
    "an id beyond memory": b'{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":4294967295},"unk_token":"a"}}',
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_file_that_is_none_ends_in_a_sentence(case: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZERS[case])
    (outcome,) = confined(lambda seed: (10**5, lambda: load_tokenizer(tmp_path)), [0])
    assert outcome.kind in ("refused", "ok"), outcome
    assert outcome.kind == "refused" or "beyond" in case


def test_settings_of_a_tokenizer_that_make_no_sense_are_found_when_it_is_loaded(model: Path) -> None:
    put(model, "tokenizer_config.json", model_max_length=[1])
    refused(lambda: load_tokenizer(model), "cannot load the tokenizer")


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages + 1 }}"])
def test_a_chat_template_that_fails_is_named_in_a_sentence(template: str, model: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n")
    spec = DataSpec(str(tmp_path / "a.jsonl"), 1, 8, column="messages")
    refused(lambda: calibration_text(spec, tokenizer), "cannot format them", DataError)


def test_a_generation_config_that_makes_no_sense_is_named(model: Path) -> None:
    (model / "generation_config.json").write_bytes(b"\xff[")
    refused(lambda: open_model(model), "cannot read .*generation_config.json")


TABLE_FAULTS = {"cut": lambda raw: raw[: len(raw) // 2], "no table": lambda raw: b"PAR1" + b"\xff" * 64 + b"PAR1"}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_parquet_file_that_is_none_ends_in_a_sentence(fault: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x" * 50] * 200}), path)
    path.write_bytes(TABLE_FAULTS[fault](path.read_bytes()))
    refused(lambda: list(documents(str(path))), "not a readable parquet file", DataError)
    refused(lambda: rows(path), "not a readable parquet file", DataError)


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused_in_bounds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, pyarrow.schema({"text": pyarrow.string()})) as writer:
        for _ in range(16):
            writer.write_table(pyarrow.table({"text": ["x" * 2**17] * 256}))
    assert path.stat().st_size < 2**20
    refused(lambda: rows(path), "unpacks to more than 256 MB", DataError)


@pytest.mark.parametrize("line", ["9" * 5000, "[" * 100_000, '{"text": NaN}', "{", "\ufeff"])
def test_a_line_of_json_that_is_none_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    refused(lambda: list(documents(str(tmp_path / "a.jsonl"))), "a.jsonl, line 2", DataError)


@pytest.mark.parametrize(
    "found", [None, 3, [3], {"schema": 1, "found": [{"metric": 3}]}, {"schema": 1, "found": {"a": 1}}]
)
def test_damaged_measurements_are_made_again(found: object) -> None:
    assert found_from_dict(found) is None


@pytest.mark.parametrize("words", ["x" * 10**6, "many\nlines\n" * 1000])
def test_no_sentence_is_longer_than_a_reader_would_read(words: str) -> None:
    text = str(ModelError(f"tensor {words!r} is at fault; copy the file again" + words))
    assert len(text) <= LONGEST + 10
    assert "\n" not in text
    assert text.startswith("tensor ")


def test_not_a_number_in_a_scale_is_refused_by_every_format(tmp_path: Path) -> None:
    from hostile import schemes
    from safetensors.torch import load_file, save_file

    base = save_tiny("llama", tmp_path / "base")
    for name in FORMATS:
        scheme = next(schemes(name))
        out = tmp_path / name
        pipeline.quantize(str(base), out, Recipe(LinearSpec.parse(scheme), "rtn", format=name))
        tensors = load_file(out / "model.safetensors")
        scale = next(key for key, tensor in tensors.items() if "scale" in key and tensor.is_floating_point())
        tensors[scale].view(-1)[0] = torch.nan
        save_file(tensors, out / "model.safetensors")
        refused(lambda out=out: load(out), "NaN")
