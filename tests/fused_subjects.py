"""Tiny models of every architecture that the CPU library does whole blocks of, quantised; shared by their tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tiny import tiny_model
from torch import Tensor, nn

from omniq.decoding import PATHS, FusedBlock, fuse_blocks
from omniq.grid import encode, minmax_grid
from omniq.hf.skeleton import ATTENTION
from omniq.models.adapter import adapter_for
from omniq.nn import QuantLinear, swap_linear
from omniq.spec import LinearSpec

# Heads of 32, which the library needs; windows shorter than most texts here.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"num_key_value_heads": 4},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 24},
}
SCHEMES = {
    "llama": "W4A16g32",
    "mistral": "W3A16",
    "qwen2": "W4A16g32-asym",
    "qwen3": "W2A16g16-asym",
    "gemma3_text": "W8A16g32",
}


def dense_model(name: str, **changes: Any) -> nn.Module:
    """A float32 model without gradients whose attention runs omniq's function."""
    _, model = tiny_model(name, **{"head_dim": 32, **MODELS[name], **changes})
    model.set_attn_implementation(ATTENTION)
    if name == "qwen2":  # lively() leaves vectors near the zeros they start as
        for path, param in model.named_parameters():
            if path.endswith("bias"):
                param.data.normal_()
    return model.requires_grad_(False)


def quantised(dense: nn.Module, scheme: str, approximate: bool = False) -> tuple[nn.Module, nn.Module]:
    """(with QuantLinears, float64 with the same decoded weights) of a dense model; nothing fused."""
    spec = LinearSpec.parse(scheme)
    model, exact = copy.deepcopy(dense), copy.deepcopy(dense).double()
    for i in range(len(model.model.layers)):
        for path in PATHS.values():
            name = f"model.layers.{i}.{path}"
            linear = dense.get_submodule(name)
            q = encode(
                linear.weight, *minmax_grid(linear.weight, spec.weight, torch.float32), spec.weight, torch.float32
            )
            swap_linear(model, name, QuantLinear(q, spec, linear.bias, approximate=approximate))
            exact.get_submodule(name).weight.copy_(q.dequantize(torch.float64))
    return model, exact


def fuse(model: nn.Module) -> str | None:
    """Fuses a model, as load() does."""
    adapter = adapter_for(model.config.model_type, model.config.to_dict())
    return fuse_blocks(model.model.layers, adapter, model.config)


def fused_model(name: str, scheme: str | None = None, **changes: Any) -> nn.Module:
    """A quantised model whose blocks the library does."""
    model, _ = quantised(dense_model(name, **changes), scheme or SCHEMES[name])
    assert fuse(model) is None
    return model


@contextmanager
def plain_blocks(model: nn.Module) -> Iterator[None]:
    """The blocks' own forward for a while."""
    fused = [block.forward for block in model.model.layers]
    assert all(isinstance(forward, FusedBlock) for forward in fused)
    for block, forward in zip(model.model.layers, fused, strict=True):
        block.forward = forward.plain
    try:
        yield
    finally:
        for block, forward in zip(model.model.layers, fused, strict=True):
            block.forward = forward


class Calls:
    """How often blocks were done by the library, counted on the way into FusedBlock.current."""

    def __init__(self, monkeypatch: Any) -> None:
        self.count = 0
        current = FusedBlock.current

        def counting(block: FusedBlock, dtype: torch.dtype) -> Any:
            self.count += 1
            return current(block, dtype)

        monkeypatch.setattr(FusedBlock, "current", counting)


def logits(model: nn.Module, ids: Tensor, **arguments: Any) -> Tensor:
    """ids (B, T) -> logits (B, T, V)."""
    with torch.no_grad():
        return model(input_ids=ids, **{"use_cache": False, **arguments}).logits


def assert_as_accurate(
    model: nn.Module, exact: nn.Module, ids: Tensor, keep: Tensor | None = None, **arguments: Any
) -> None:
    """The error-ratio rule: fused blocks are at most twice as far from float64 as their own forward.

    keep (B, T): tokens whose logits count.
    """
    keep = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep
    reference = logits(exact, ids, **arguments)[keep]
    ours = logits(model, ids, **arguments)
    with plain_blocks(model):
        plain = logits(model, ids, **arguments)[keep]
    assert ours.dtype == plain.dtype
    allowed = 2 * (plain.double() - reference).norm() + torch.finfo(ours.dtype).eps * reference.norm()
    assert (ours[keep].double() - reference).norm() <= allowed
