"""Every format from a command to a checkpoint: what is written holds what was calibrated, in the dtypes it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_pipeline import PRESETS, decoded, logits
from tiny import save_text, save_tiny, tokens

from omniq.calibrate.data import DataSpec
from omniq.errors import UnsupportedError
from omniq.formats.base import FORMATS
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.runtime import info, load, quantized_linears
from omniq.source import config_values
from omniq.spec import LinearSpec

FOLDING = {"gptq": "awq", "gptq_v2": "default"}
"""Presets that change norms, or train scales end to end, one for each format to try them with."""
SIZES = {"hidden_size": 64, "intermediate_size": 96}


pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(name: str, tmp_path: Path, preset: str = "rtn", scheme: str = "W4A16g32", **other) -> Recipe:
    text = tmp_path / "calibration.txt"
    save_text(text)
    return Recipe(LinearSpec.parse(scheme), preset, PRESETS[preset], DataSpec(str(text), 4, 24), format=name, **other)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_run_in_any_format_is_verified_loads_and_keeps_what_is_not_quantised_in_its_dtype(name, tmp_path):
    folder = save_tiny("llama", tmp_path / "model", torch.bfloat16, **SIZES)
    report = quantize(str(folder), tmp_path / "out", recipe(name, tmp_path, FOLDING.get(name, "rtn")))
    assert report.verified
    model, specs = decoded(tmp_path / "out")
    assert len(specs) == 14
    assert model.dtype == torch.bfloat16
    wanted = logits(model.skeleton, tokens(2, 24))
    torch.testing.assert_close(
        logits(load(tmp_path / "out", dtype=torch.float32), tokens(2, 24)), wanted, rtol=1e-4, atol=1e-4
    )
    norms = {model.reader.info(n).dtype for n in model.reader.names() if "norm" in n}
    assert norms == {torch.bfloat16}
    for _, (q, _) in quantized_linears(model).items():
        assert q.scales.dtype == FORMATS[name].scale_dtype(torch.bfloat16)
    facts = info(tmp_path / "out")
    assert facts["bits_per_weight"] == pytest.approx(report.bits_per_weight)
    assert facts["schemes"] == {"W4A16g32": 14}


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_a_mixture_of_experts_leaves_its_router_alone_and_is_not_said_to_load_in_transformers(name, tmp_path):
    folder = save_tiny("qwen3_moe", tmp_path / "model", torch.bfloat16)
    report = quantize(str(folder), tmp_path / "out", recipe(name, tmp_path))
    assert report.loaders[0].startswith("transformers: no")
    model, specs = decoded(tmp_path / "out")
    assert any(".experts.3." in stored for stored in specs)
    entry = config_values(tmp_path / "out")["quantization_config"]
    kept = str(entry.get("dynamic") or entry["modules_to_not_convert"])
    assert "gate" in kept
    wanted = logits(model.skeleton, tokens(2, 24))
    torch.testing.assert_close(
        logits(load(tmp_path / "out", dtype=torch.float32), tokens(2, 24)), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_what_a_format_cannot_store_is_refused_before_anything_is_read(name, tmp_path):
    folder = save_tiny("llama", tmp_path / "model", torch.bfloat16)
    with pytest.raises(UnsupportedError, match="use --format compressed-tensors, or --embed-bits 16"):
        plan(str(folder), tmp_path / "out", recipe(name, tmp_path, embed_bits=8))
    mixed = recipe(name, tmp_path, "gptq", avg_bits=3.0, bits_choices=(2, 4))
    with pytest.raises(UnsupportedError, match="--format compressed-tensors can"):
        plan(str(folder), tmp_path / "out", mixed)
    with pytest.raises(UnsupportedError, match="activations of 8 bits; --format compressed-tensors has"):
        plan(str(folder), tmp_path / "out", recipe(name, tmp_path, scheme="W4A8g32"))
