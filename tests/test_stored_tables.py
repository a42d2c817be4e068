"""quantize --embed-bits: what is stored, that omniq and transformers compute with it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_text, save_tiny, tokens
from torch import nn

import omniq.job as job
from omniq.calibrate.data import DataSpec
from omniq.errors import ModelError, OutputError, UnsupportedError, UsageError, VerificationError
from omniq.formats.base import FORMATS
from omniq.formats.compressed_tensors import CompressedTensors
from omniq.hf import load_dense, open_model
from omniq.kernels.cpu import Cpu
from omniq.nn import QuantEmbedding, QuantLinear
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.runtime import info, load, quantized_linears, stored_tables
from omniq.spec import LinearSpec
from omniq.subject.loading import dequantized
from omniq.verification import check_tables
from omniq.vocab.rounding import quantized_table, table_spec
from omniq.vocab.stored import table_digests

MODELS = ("llama-tied", "llama", "gemma3_text", "gpt_neox", "opt", "phi", "falcon")


pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(bits: int = 8, scheme: str = "W4A16g16", preset: str = "rtn", **other: Any) -> Recipe:
    return Recipe(LinearSpec.parse(scheme), preset, embed_bits=bits, **other)


def made(tmp_path: Path, name: str, asked: Recipe, dtype: torch.dtype = torch.float32) -> tuple[Path, Path, Any]:
    """(original, quantised, report)."""
    folder, out = save_tiny(name, tmp_path / "model", dtype), tmp_path / "out"
    return folder, out, quantize(str(folder), out, asked)


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def reference(folder: Path, out: Path, bits: int, group: int = 16) -> nn.Module:
    """The original with every linear as stored, and its own embedding and head rounded, all in floating point."""
    model = load_dense(folder, torch.float32)
    for name, (q, _) in quantized_linears(open_model(out, quantized=True)).items():
        model.get_submodule(name).weight = nn.Parameter(q.dequantize(), requires_grad=False)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        spec = table_spec(module.weight.shape[1], bits, group)
        rounded = quantized_table(module.weight, spec).dequantize()
        module.weight = nn.Parameter(rounded, requires_grad=False)
        if tied:
            model.get_output_embeddings().weight = module.weight
            break
    return model


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 8) for name in MODELS), ("llama-tied", 4), ("gemma3_text", 4), ("falcon", 4)]
)
def test_omniq_computes_with_the_stored_tables_and_transformers_where_the_report_says(name, bits, tmp_path):
    folder, out, report = made(tmp_path, name, recipe(bits))
    assert report.verified
    expected, model = reference(folder, out, bits), load(out)
    assert isinstance(model.get_input_embeddings(), QuantEmbedding)
    assert isinstance(model.get_output_embeddings(), QuantLinear)
    ids = tokens(2, 24)
    rows = model.get_input_embeddings()(ids)
    torch.testing.assert_close(rows, expected.get_input_embeddings()(ids), rtol=0, atol=0)
    states = torch.randn(5, rows.shape[-1], generator=torch.Generator().manual_seed(0))
    heads = (model.get_output_embeddings()(states), expected.get_output_embeddings()(states))
    torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(model, ids), logits(expected, ids), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(dequantized(out).eval(), ids), logits(expected, ids), rtol=1e-5, atol=1e-5)
    if ": yes" in report.loaders[0]:
        dense = load_dense(out, torch.float32)
        torch.testing.assert_close(logits(dense, ids), logits(expected, ids), rtol=1e-5, atol=1e-5)
    else:
        assert (name, bits) == ("falcon", 8)


@pytest.mark.parametrize(
    ("scheme", "bits", "loads"),
    [
        ("W8A16g16", 8, True),
        ("W3A16g16", 8, True),
        ("W3A16g16", 4, False),
        ("W4A8g16", 8, True),
        ("W2A16g16-asym", 8, False),
    ],
)
@pytest.mark.parametrize("name", ["llama-tied", "llama"])
def test_transformers_loads_exactly_what_the_report_promises(name, scheme, bits, loads, tmp_path, monkeypatch):
    # The same sums as transformers takes: the last bit of a sum decides between two codes of an activation.
    monkeypatch.setattr(Cpu, "refuse", lambda *_: "not in this test")
    _, out, report = made(tmp_path, name, recipe(bits, scheme, attention=False))
    assert (": yes" in report.loaders[0]) is loads
    assert report.loaders[-1] == "omniq: yes."
    card = (out / "README.md").read_text()
    assert ("AutoModelForCausalLM.from_pretrained" in card) is loads
    assert str(report.tables) in card
    ids = tokens(2, 12)
    if not loads:
        with pytest.raises(ModelError, match="cannot load"):
            load_dense(out, torch.float32)
        assert logits(load(out), ids).isfinite().all()
        return
    torch.testing.assert_close(
        logits(load_dense(out, torch.float32), ids), logits(load(out), ids), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_scaled_embedding_looks_up_the_same_in_half_precision(dtype, tmp_path):
    _, out, _ = made(tmp_path, "gemma3_text", recipe(8), dtype)
    ids, dense = tokens(1, 9), load_dense(out, dtype)
    logits(dense, ids)  # transformers expands its weights at the first forward pass
    found, expected = (model.get_input_embeddings()(ids) for model in (load(out), dense))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_tied_table_is_stored_and_held_once(tmp_path):
    _, out, _ = made(tmp_path, "llama-tied", recipe(8))
    stored = load_file(out / "model.safetensors")
    tables = {name for name in stored if "embed_tokens" in name or "lm_head" in name}
    assert tables == {"model.embed_tokens.weight", "model.embed_tokens.weight_scale", "lm_head.weight_scale"}
    assert stored["model.embed_tokens.weight"].dtype == torch.int8
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    model = load(out)
    pair = [module.packed() for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert [t.data_ptr() for t in pair[0].values()] == [t.data_ptr() for t in pair[1].values()]


def test_generation_gives_the_tokens_of_the_dense_model(tmp_path):
    folder, out, _ = made(tmp_path, "gemma3_text", recipe(8))
    ids = tokens(1, 8)
    both = [
        model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        for model in (load(out), reference(folder, out, 8))
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize(("name", "bits"), [("llama-tied", 8), ("llama", 8), ("llama-tied", 4)])
def test_plan_report_and_info_count_the_same_bits_and_bytes(name, bits, tmp_path):
    folder = save_tiny(name, tmp_path / "model")
    asked = recipe(bits, embed_group_size=32)
    foreseen = plan(str(folder), tmp_path / "out", asked)
    report = quantize(str(folder), tmp_path / "out", asked)
    facts = info(tmp_path / "out")
    table, linears = 320 * 64 * (1 if name == "llama-tied" else 2), 2 * (64 * 192 + 3 * 64 * 96)
    expected = (linears * (4 + 32 / 16) + table * (bits + 32 / 32)) / (linears + table)
    for found in (foreseen.bits_per_weight, report.bits_per_weight, facts["bits_per_weight"]):
        assert found == pytest.approx(expected)
    assert foreseen.tables == report.tables == facts["tables"]
    assert foreseen.loaders == report.loaders == facts["loaders"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    repeated = tensors["lm_head.weight_scale"].nbytes if name == "llama-tied" and bits == 8 else 0
    shapes = sum(tensor.nbytes for leaf, tensor in tensors.items() if leaf.endswith("weight_shape"))
    header = (folder / "model.safetensors").stat().st_size - sum(
        tensor.nbytes for tensor in load_file(folder / "model.safetensors").values()
    )
    assert foreseen.size_after - header == sum(t.nbytes for t in tensors.values()) - repeated - shapes


@pytest.mark.parametrize("name", ["llama-tied", "llama"])
def test_calibration_starts_from_the_rounded_embedding(name, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    save_text(text)
    seen, run = [], job.run

    def watched(*args: Any) -> Any:
        seen.append(args)
        return run(*args)

    monkeypatch.setattr(job, "run", watched)
    folder, _, report = made(tmp_path, name, recipe(4, preset="gptq", data=DataSpec(str(text), 4, 24)))
    assert report.verified
    streams, original = seen[0][-1], load_dense(folder, torch.float32).get_input_embeddings().weight
    rounded = quantized_table(original, table_spec(64, 4, 16)).dequantize()
    # Which token it was is what the nearest row says.
    ids = torch.cdist(streams.original[0], original).argmin(1)
    torch.testing.assert_close(streams.original[0], original[ids], rtol=0, atol=0)
    torch.testing.assert_close(streams.quantized[0], rounded[ids], rtol=0, atol=0)


@pytest.mark.parametrize("preset", ["rtn", "gptq"])
def test_an_interrupted_run_goes_on_with_the_tables_it_has(preset, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    save_text(text)
    asked = recipe(8, preset=preset, data=DataSpec(str(text), 4, 24))
    folder = save_tiny("llama-tied", tmp_path / "model")
    quantize(str(folder), tmp_path / "whole", asked)
    save, made_tables = job.Work.save, []

    def stopped(self: Any, block: Any, *rest: Any) -> None:
        save(self, block, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(job.Work, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        quantize(str(folder), tmp_path / "out", asked)
    monkeypatch.setattr(job.Work, "save", save)
    monkeypatch.setattr(job.Work, "save_tables", lambda *_: made_tables.append(1))
    quantize(str(folder), tmp_path / "out", asked)
    assert not made_tables
    whole, out = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert whole.keys() == out.keys()
    assert all(torch.equal(whole[name], out[name]) for name in whole)


def test_damaged_tables_of_an_interrupted_run_are_noticed(tmp_path, monkeypatch):
    folder = save_tiny("llama-tied", tmp_path / "model")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job.Work, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            quantize(str(folder), tmp_path / "out", recipe(8))
    path = tmp_path / ".out.omniq" / "tables.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OutputError, match=r"tables\.safetensors is damaged"):
        quantize(str(folder), tmp_path / "out", recipe(8))


@pytest.mark.parametrize("leaf", ["model.embed_tokens.weight", "model.embed_tokens.weight_scale"])
def test_other_numbers_in_the_written_table_fail_the_check(leaf, tmp_path):
    folder, out, _ = made(tmp_path, "llama", recipe(8))
    opened = open_model(out, quantized=True)
    tables = stored_tables(opened)
    known = table_digests(tables.read(opened.reader))
    form = FORMATS["compressed-tensors"]
    check_tables(out, form, open_model(folder), known)
    stored = load_file(out / "model.safetensors")
    stored[leaf][3, 1] += 1
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match="embedding table reads back"):
        check_tables(out, form, open_model(folder), known)


def test_a_tied_head_with_scales_of_its_own_is_refused(tmp_path):
    _, out, _ = made(tmp_path, "llama-tied", recipe(8))
    stored = load_file(out / "model.safetensors")
    stored["lm_head.weight_scale"] *= 2
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="although they are one table"):
        load(out)


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_format_without_a_place_for_tables_names_one_that_has(tmp_path, monkeypatch):
    class Without(CompressedTensors):
        """A format that has no way to store a table."""

        def __init__(self) -> None:
            self.tables = None

    "compressed-tensors" in FORMATS  # noqa: B015  fills the registry
    monkeypatch.setitem(FORMATS._entries, "without", Without())
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"'without' cannot store.* of 8 bits; use --format compressed-tensors"):
        plan(str(folder), tmp_path / "out", recipe(8, format="without"))
    assert plan(str(folder), tmp_path / "out", recipe(16, format="without")).tables is None


def test_bits_and_groups_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(UsageError, match="embed_bits is 5; use one of 16, 8, 4"):
        recipe(5)
    with pytest.raises(UsageError, match="embed_group_size needs a quantised embedding table"):
        recipe(16, embed_group_size=32)
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(UsageError, match=r"embedding table: in_features=64 is not a multiple of group size 48"):
        plan(str(folder), tmp_path / "out", recipe(8, embed_group_size=48))


def test_a_stored_table_is_not_rounded_again(tmp_path):
    _, out, _ = made(tmp_path, "llama-tied", recipe(8))
    with pytest.raises(UsageError, match=r"quantised already \(W8A16g16, one table.*leave embed_bits at 16"):
        load(out, embed_bits=4)


@pytest.mark.parametrize(
    ("scheme", "group", "found"),
    [("W4A16g16", None, 16), ("W4A16", None, -1), ("W4A16g128", None, 64), ("W4A16g16", 32, 32)],
)
def test_groups_are_those_asked_for_or_the_linears_or_the_first_that_fits(scheme, group, found):
    assert table_spec(64, 8, group, LinearSpec.parse(scheme).weight).weight.group_size == found
    assert table_spec(50, 8, None, LinearSpec.parse("W4A16g128").weight).weight.group_size == -1


def test_sixteen_bits_write_what_was_written_before(tmp_path):
    _, out, report = made(tmp_path, "llama-tied", recipe(16))
    assert report.tables is None
    assert set(json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"]) == {"group_0"}
    assert "tables" not in info(out)
