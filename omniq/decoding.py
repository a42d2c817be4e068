"""Whole decoder blocks on the CPU library: norms, linears, rotary embedding, attention and MLP in three calls.

A decoding step of a small model is some thirty operations a block, each shorter than the way to it from Python; for a
prompt they are as many passes over memory. The block's own forward stays for what the library does not know: gradients,
tracing, recorded attention weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from omniq.kernels.cpu import Cpu
from omniq.kernels.cpu_block import ACTIVATIONS, HEAD_STEP, LINEARS, NORMS, PackedBlock, PackedLayer, Shape
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.shared_library import TYPES
from omniq.models.adapter import Adapter, GatedBlock
from omniq.nn import QuantLinear
from omniq.origins import Origin, module_origins, tensor_origin, unchanged

PATHS = {name: f"{'self_attn' if name in 'qkvo' else 'mlp'}.{name}_proj" for name in LINEARS}


def fuse_blocks(blocks: nn.ModuleList, adapter: Adapter | None, config: Any) -> str | None:
    """Lets the library do every block of a loaded model; or the reason why it cannot."""
    if adapter is None or adapter.gated is None:
        return f"the architecture {config.model_type} has no table of its block"
    fused = [FusedBlock(block, adapter.gated, adapter.norm_offset, config) for block in blocks]
    reason = next((step.parts.reason for step in fused if step.parts.reason), None)
    if reason is None:
        for step in fused:
            step.block.forward = step
    return reason


def activation_of(config: Any) -> str:
    """The name of the MLP's activation function."""
    values = config.to_dict()
    return values.get("hidden_activation") or values.get("hidden_act") or ""


def refusal(block: nn.Module, gated: GatedBlock, config: Any) -> str | None:
    """Why one block cannot be done in one call, or None."""
    layers = [block.get_submodule(path) for path in PATHS.values()]
    if any(parameter.device.type != "cpu" for parameter in block.parameters()):
        return "whole blocks are done on the CPU only"
    if not all(isinstance(layer, QuantLinear) and isinstance(KERNELS[layer.kernel], Cpu) for layer in layers):
        return "not every linear of a block runs on a CPU kernel"
    if any(layer.spec.input is not None for layer in layers) or getattr(block, "omniq_attention", None):
        return "the scheme quantises activations itself"
    if any(layer.spec.transform for layer in layers):
        return "inputs of linears are transformed at run time"
    if any(layer.order is not None for layer in layers):
        return "groups are not of neighbouring inputs (act-order)"
    if len({(layer.kernel, layer.spec) for layer in layers}) > 1:
        return "the linears of a block have different schemes"
    size = block.self_attn.head_dim
    if size % HEAD_STEP or layers[0].out_features % size:
        return f"heads of {size} are not a multiple of {HEAD_STEP}"
    values = config.to_dict()
    if activation_of(config) not in ACTIVATIONS or values.get("attn_logit_softcapping"):
        return f"the block computes {activation_of(config)} or caps its scores, which the library does not"
    return None


@dataclass(frozen=True)
class Parts:
    """The modules of a block, what says that they are still the same, and why they cannot be fused, if so."""

    linears: dict[str, nn.Module]
    norms: dict[str, nn.Module]
    origins: list[Origin]
    hooks: tuple[dict, ...]
    reason: str | None


class FusedBlock:
    """Stands in for the forward of one decoder block. Looks before every call whether the block is still as it was."""

    def __init__(self, block: nn.Module, gated: GatedBlock, norm_offset: float, config: Any) -> None:
        self.block, self.gated, self.norm_offset, self.config = block, gated, norm_offset, config
        self.plain = block.forward
        self.parts = self.found_parts()
        self.packed: dict[torch.dtype, tuple[PackedBlock, list[Origin]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what points into this block's modules and tensors: a copy finds its own."""
        return self.__dict__ | {"packed": {}, "parts": None}

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states (B, T, D) -> (B, T, D), with the arguments of a transformers decoder layer."""
        angles = kwargs.get("position_embeddings")
        if args or angles is None or not takes(hidden_states, angles, kwargs) or not self.can():
            return self.plain(hidden_states, *args, **kwargs)
        block, hidden = self.current(hidden_states.dtype), hidden_states.contiguous()
        queries, keys, values = block.project(hidden, angles[0].contiguous(), angles[1].contiguous())
        if (cache := kwargs.get("past_key_values")) is not None:
            keys, values = cache.update(keys, values, self.block.self_attn.layer_idx)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            return block.finish(hidden, attended(queries, keys, values, mask, block.shape.scaling))
        if (length := queries.shape[2]) > 1:
            # Only a text from its start comes without a mask; a cache of fixed size has empty room behind it.
            keys, values = keys[:, :, :length], values[:, :, :length]
        if keys.stride(3) != 1 or keys.stride() != values.stride():
            keys, values = keys.contiguous(), values.contiguous()
        return block.finish(hidden, block.attend(queries, keys, values))

    def can(self) -> bool:
        """Whether the block, as it is now, can be done by the library and nobody looks inside."""
        if self.parts is None or not unchanged(self.parts.origins):
            self.parts, self.packed = self.found_parts(), {}
        watched = any(self.parts.hooks) and any(
            is_foreign(hook) for hooks in self.parts.hooks for hook in hooks.values()
        )
        trained = torch.is_grad_enabled() and any(norm.weight.requires_grad for norm in self.parts.norms.values())
        return self.parts.reason is None and not watched and not trained and not self.config.output_attentions

    def found_parts(self) -> Parts:
        """The block's modules by the names of its table."""
        norm_paths = {name: path for name in NORMS if (path := getattr(self.gated, f"{name}_norm"))}
        origins = module_origins(self.block, (*PATHS.values(), *norm_paths.values()))
        linears = {name: self.block.get_submodule(path) for name, path in PATHS.items()}
        norms = {name: self.block.get_submodule(path) for name, path in norm_paths.items()}
        modules = [origin.entry for origin in origins]
        hooks = tuple(held for module in modules for held in (module._forward_hooks, module._forward_pre_hooks))
        return Parts(linears, norms, origins, hooks, refusal(self.block, self.gated, self.config))

    def current(self, dtype: torch.dtype) -> PackedBlock:
        """The packed block for activations of `dtype`, made anew when what it was made from is no longer the same."""
        held = self.packed.get(dtype)
        if held is None or not unchanged(held[1]):
            self.packed[dtype] = held = (self.pack(dtype), self.tensor_origins())
        return held[0]

    def tensor_origins(self) -> list[Origin]:
        """The tensors that the packed block stands for: packed weights, and what it holds copies of."""
        linears, norms = self.parts.linears.values(), self.parts.norms.values()
        lines = [(layer._buffers, "packed_lines") for layer in linears]
        biases = [(layer._buffers, "bias") for layer in linears if layer.bias is not None]
        return [
            tensor_origin(holder, name)
            for holder, name in (*lines, *biases, *((n._parameters, "weight") for n in norms))
        ]

    def pack(self, dtype: torch.dtype) -> PackedBlock:
        """The block as the library takes it."""
        attention, linears = self.block.self_attn, self.parts.linears
        shape = Shape(
            heads=linears["q"].out_features // attention.head_dim,
            kv_heads=linears["k"].out_features // attention.head_dim,
            head_size=attention.head_dim,
            eps=self.config.rms_norm_eps,
            scaling=attention.scaling,
            activation=activation_of(self.config),
            digits=KERNELS[linears["q"].kernel].digits[dtype],
        )
        layers = {name: PackedLayer(layer.packed(), layer.spec.weight, layer.bias) for name, layer in linears.items()}
        norms = {name: norm.weight.float() + self.norm_offset for name, norm in self.parts.norms.items()}
        return PackedBlock(layers, norms, shape)


def is_foreign(hook: Any) -> bool:
    """Whether someone looks into the block with it. transformers leaves hooks behind that record only when asked to."""
    return not hook.__module__.startswith("transformers.")


def takes(x: Tensor, angles: tuple[Tensor, Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether the library can do a block's call with these arguments of a transformers decoder layer."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in TYPES
        and x.numel() > 0
        and angles[0].dtype == x.dtype
        and not kwargs.get("output_attentions")
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
    )


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """q (B, H, T, head size) over k, v (B, kv heads, S, head size), mask (B, 1, T, S) -> (B, T, H * head size)."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(1, 2).flatten(2).contiguous()
