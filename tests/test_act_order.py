"""GPTQ checkpoints whose groups are not of neighbouring inputs: loaded, expanded, refused where it cannot be said."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_formats import random_qtensor
from tiny import save_tiny, tokens
from torch import Tensor, nn

from omniq.calibrate.data import DataSpec
from omniq.errors import UnsupportedError
from omniq.exporting.run import export
from omniq.hf import load_dense
from omniq.nn import QuantLinear
from omniq.pipeline import quantize
from omniq.qtensor import QTensor
from omniq.recipe import Recipe
from omniq.runtime import info, load
from omniq.spec import LinearSpec

pytestmark = pytest.mark.usefixtures("own_cache")


def shuffled(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def ordered(tmp_path: Path, text: Path) -> Path:
    """A GPTQ checkpoint as a tool writes it that dealt the inputs of every linear to its groups in another order."""
    folder, out = save_tiny("llama", tmp_path / "model", torch.float16), tmp_path / "out"
    recipe = Recipe(LinearSpec.parse("W4A16g32"), "rtn", {}, DataSpec(str(text), 4, 16), format="gptq")
    quantize(str(folder), out, recipe)
    weights, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    for seed, name in enumerate(sorted(name for name in weights if name.endswith(".g_idx"))):
        weights[name] = weights[name][shuffled(len(weights[name]), seed)].contiguous()
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    config["quantization_config"]["desc_act"] = True
    (out / "config.json").write_text(json.dumps(config))
    return out


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens(2, 24), use_cache=False).logits.float()


def test_it_computes_on_the_kernels_what_its_expanded_weights_compute(ordered: Path, tmp_path: Path) -> None:
    export(ordered, tmp_path / "dense", "dense", dtype=torch.float32)
    model, expected = load(ordered, dtype=torch.float32), logits(load_dense(tmp_path / "dense", torch.float32))
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)
    assert "act-order" in model.omniq_unfused
    for layer in (module for module in model.modules() if isinstance(module, QuantLinear)):
        layer.order = None
    assert (logits(model) - expected).abs().max() > 0.1


def test_info_counts_the_order_of_the_inputs(ordered: Path, tmp_path: Path, text: Path) -> None:
    folder = str(tmp_path / "model")
    plain = Recipe(LinearSpec.parse("W4A16g32"), "rtn", {}, DataSpec(str(text), 4, 16), format="gptq")
    quantize(folder, tmp_path / "plain", plain)
    assert info(ordered)["bits_per_weight"] > info(tmp_path / "plain")["bits_per_weight"]


@pytest.mark.parametrize("name", ["gptq_v2", "compressed-tensors", "auto-round", "gguf"])
def test_layouts_that_cannot_say_it_refuse_it_and_name_one_that_can(name: str, ordered: Path, tmp_path: Path) -> None:
    out = tmp_path / ("other.gguf" if name == "gguf" else "other")
    with pytest.raises(UnsupportedError, match=r"act-order.*dense"):
        export(ordered, out, name)
    assert not out.exists()


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_layer_multiplies_each_input_with_its_own_column(rows: int) -> None:
    spec = LinearSpec.parse("W4A16g32")
    plain = random_qtensor(spec.weight, (64, 96), torch.float32)
    q = QTensor(plain.codes, plain.scales, plain.zeros, plain.spec, shuffled(96))
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(1))
    layer, expected = QuantLinear(q, spec), x @ q.dequantize().T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x), QuantLinear(plain, spec)(x[:, q.order]))
    assert "act-order" in str(layer)


def test_an_order_must_hold_every_input_once() -> None:
    q = random_qtensor(LinearSpec.parse("W4A16g32").weight, (32, 64), torch.float32)
    for order in (torch.zeros(64, dtype=torch.int64), torch.arange(63), torch.arange(1, 65)):
        with pytest.raises(ValueError, match="each of the 64 inputs once"):
            QTensor(q.codes, q.scales, q.zeros, q.spec, order)
    ordered = QTensor(q.codes, q.scales, q.zeros, q.spec, shuffled(64))
    assert not q.equal(ordered)
    assert torch.equal(ordered.dequantize()[:, ordered.order], q.dequantize())
