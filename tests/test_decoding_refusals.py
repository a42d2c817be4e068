"""Every reason for which blocks keep their own forward, in words; and what blocks may be without one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cpu_subjects import needs_library
from fused_subjects import dense_model, fuse, logits, plain_blocks, quantised
from tiny import tiny_model, tokens
from torch import nn

from omniq.attention import set_attention
from omniq.decoding import FusedBlock, fuse_blocks
from omniq.kernels import cpu, native
from omniq.models.adapter import adapter_for
from omniq.nn import QuantLinear, swap_linear
from omniq.spec import ActSpec

pytestmark = needs_library
IDS = tokens(2, 9)


def refusal_of(model: nn.Module) -> str | None:
    """What fuse says, having checked that it changed no block."""
    reason = fuse(model)
    assert (reason is None) is all(isinstance(block.forward, FusedBlock) for block in model.model.layers)
    assert (reason is None) is any(isinstance(block.forward, FusedBlock) for block in model.model.layers)
    return reason


def of_llama(scheme: str = "W4A16g32", **changes: object) -> nn.Module:
    return quantised(dense_model("llama", **changes), scheme)[0]


@pytest.mark.parametrize("name", ["gemma2", "phi", "opt", "falcon", "mixtral"])
def test_an_architecture_without_a_gated_block_is_refused(name: str) -> None:
    config, _ = tiny_model(name)
    reason = fuse_blocks(nn.ModuleList(), adapter_for(config.model_type, config.to_dict()), config)
    assert reason == f"the architecture {config.model_type} has no table of its block"


def test_a_model_type_without_a_table_is_refused() -> None:
    assert "olmo2 has no table" in fuse_blocks(nn.ModuleList(), None, SimpleNamespace(model_type="olmo2"))


@pytest.mark.parametrize("scheme", ["W4A8g32", "W4A4"])
def test_quantised_activations_are_refused(scheme: str) -> None:
    assert "quantises activations itself" in refusal_of(of_llama(scheme))


def test_a_grid_inside_attention_is_refused() -> None:
    model = of_llama()
    set_attention(model, ActSpec(8))
    assert "quantises activations itself" in refusal_of(model)


def test_heads_that_the_library_cannot_halve_into_registers_are_refused() -> None:
    assert refusal_of(of_llama(head_dim=16)) == "heads of 16 are not a multiple of 32"
    assert refusal_of(of_llama(head_dim=48)) == "heads of 48 are not a multiple of 32"
    assert refusal_of(of_llama(head_dim=64)) is None


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_another_activation_function_is_refused_by_its_name(name: str) -> None:
    assert f"computes {name} " in refusal_of(of_llama(hidden_act=name))


def test_capped_scores_are_refused() -> None:
    model, _ = quantised(dense_model("gemma3_text", attn_logit_softcapping=30.0), "W4A16g32")
    assert "caps its scores" in refusal_of(model)


def test_attention_in_both_directions_is_refused_or_computed() -> None:
    model, _ = quantised(dense_model("gemma3_text", use_bidirectional_attention=True), "W4A16g32")
    expected = logits(model, IDS)
    fuse(model)
    torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-4)


def test_layers_of_different_schemes_are_refused() -> None:
    model, other = of_llama(), of_llama("W3A16g32")
    swap_linear(model, "model.layers.1.mlp.up_proj", other.get_submodule("model.layers.1.mlp.up_proj"))
    assert refusal_of(model) == "the linears of a block have different schemes"


def test_blocks_may_differ_from_each_other() -> None:
    model, other = of_llama(), of_llama("W3A16g32")
    model.model.layers[1] = other.model.layers[1]
    assert refusal_of(model) is None
    ours = logits(model, IDS)
    with plain_blocks(model):
        torch.testing.assert_close(ours, logits(model, IDS), rtol=1e-4, atol=1e-4)


def test_a_layer_in_floating_point_is_refused() -> None:
    model = of_llama()
    swap_linear(model, "model.layers.1.mlp.up_proj", nn.Linear(64, 96))
    assert "not every linear" in refusal_of(model)


def test_without_the_library_blocks_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_library", lambda: native.open_library(None))
    assert "not every linear of a block runs on a CPU kernel" in refusal_of(of_llama())


def test_the_rounding_kernel_is_fused_with_its_own_digits() -> None:
    exact, _ = quantised(dense_model("llama"), "W4A16g32")
    rough, _ = quantised(dense_model("llama"), "W4A16g32", approximate=True)
    assert refusal_of(rough) is None
    assert {layer.kernel for layer in rough.modules() if isinstance(layer, QuantLinear)} == {"cpu_int8"}
    true = logits(exact, IDS)
    error = (logits(rough, IDS) - true).norm() / true.norm()
    with plain_blocks(rough):
        unfused = (logits(rough, IDS) - true).norm() / true.norm()
    torch.testing.assert_close(error, unfused, rtol=0.2, atol=0)
    assert 1e-4 < error < 0.05
