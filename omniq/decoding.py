"""Whole decoder blocks on the CPU library: norms, linears, rotary embedding and MLP of a block in two calls.

A decoding step of a small model is some thirty operations a block, each shorter than the way to it from Python; for a
prompt they are as many passes over memory. The block's own forward stays for what the library does not know: gradients,
tracing, recorded attention weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from omniq.kernels.cpu import TYPES, Cpu
from omniq.kernels.cpu_block import ACTIVATIONS, HEAD_STEP, LINEARS, NORMS, PackedBlock, PackedLayer, Shape
from omniq.kernels.dispatch import KERNELS
from omniq.models.adapter import Adapter, GatedBlock
from omniq.nn import QuantLinear

PATHS = {name: f"{'self_attn' if name in 'qkvo' else 'mlp'}.{name}_proj" for name in LINEARS}


def fuse_blocks(blocks: nn.ModuleList, adapter: Adapter | None, config: Any) -> str | None:
    """Lets the library do every block of a loaded model; or the reason why it cannot."""
    if adapter is None or adapter.gated is None:
        return f"the architecture {config.model_type} has no table of its block"
    reason = next((reason for block in blocks if (reason := refusal(block, adapter.gated, config))), None)
    if reason is None:
        for block in blocks:
            block.forward = FusedBlock(block, adapter.gated, adapter.norm_offset, config)
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
    if len({(layer.kernel, layer.spec) for layer in layers}) > 1:
        return "the linears of a block have different schemes"
    size = block.self_attn.head_dim
    if size % HEAD_STEP or layers[0].out_features % size:
        return f"heads of {size} are not a multiple of {HEAD_STEP}"
    values = config.to_dict()
    if activation_of(config) not in ACTIVATIONS or values.get("attn_logit_softcapping"):
        return f"the block computes {activation_of(config)} or caps its scores, which the library does not"
    return None


class Origin(NamedTuple):
    """A tensor of a module as it was; version: of its values where the packed block holds a copy of them."""

    holder: dict[str, Tensor]
    name: str
    tensor: Tensor
    version: int | None


def unchanged(origins: list[Origin]) -> bool:
    """Whether no tensor was replaced since, nor one of which there is a copy written. Asked before every use."""
    for holder, name, tensor, version in origins:
        if holder[name] is not tensor or (version is not None and tensor._version != version):
            return False
    return True


class FusedBlock:
    """Stands in for the forward of one decoder block."""

    def __init__(self, block: nn.Module, gated: GatedBlock, norm_offset: float, config: Any) -> None:
        self.block, self.gated, self.norm_offset = block, gated, norm_offset
        self.eps, self.activation = config.rms_norm_eps, activation_of(config)
        self.plain = block.forward
        self.linears = {name: block.get_submodule(path) for name, path in PATHS.items()}
        paths = {name: getattr(gated, f"{name}_norm") for name in NORMS}
        self.norms = {name: block.get_submodule(path) for name, path in paths.items() if path}
        self.index = block.self_attn.layer_idx
        self.packed: dict[torch.dtype, tuple[PackedBlock, list[Origin]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed block, which points into this one's tensors: a copy makes its own."""
        return self.__dict__ | {"packed": {}}

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states (B, T, D) -> (B, T, D), with the arguments of a transformers decoder layer."""
        angles = kwargs.get("position_embeddings")
        if args or angles is None or not takes(hidden_states, angles, kwargs):
            return self.plain(hidden_states, *args, **kwargs)
        block, hidden, cache = (
            self.current(hidden_states.dtype),
            hidden_states.contiguous(),
            kwargs.get("past_key_values"),
        )
        queries, keys, values = block.project(hidden, angles[0].contiguous(), angles[1].contiguous())
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            return block.finish(hidden, attended(queries, keys, values, mask, block.shape.scaling))
        if (length := queries.shape[2]) > 1:
            # Only a text from its start comes without a mask; a cache of fixed size has empty room behind it.
            keys, values = keys[:, :, :length], values[:, :, :length]
        if keys.stride(3) != 1 or keys.stride() != values.stride():
            keys, values = keys.contiguous(), values.contiguous()
        return block.finish(hidden, block.attend(queries, keys, values))

    def current(self, dtype: torch.dtype) -> PackedBlock:
        """The packed block for activations of `dtype`, made anew when what it was made from is no longer the same."""
        held = self.packed.get(dtype)
        if held is None or not unchanged(held[1]):
            self.packed[dtype] = held = (self.pack(dtype), self.origins())
        return held[0]

    def origins(self) -> list[Origin]:
        """The tensors a packed block points into, and those it holds copies of."""
        lines = [(layer._buffers, "packed_lines", False) for layer in self.linears.values()]
        biases = [(layer._buffers, "bias", True) for layer in self.linears.values() if layer.bias is not None]
        norms = [(norm._parameters, "weight", True) for norm in self.norms.values()]
        return [
            Origin(
                holder,
                name,
                holder[name],
                holder[name]._version if copied and not holder[name].is_inference() else None,
            )
            for holder, name, copied in (*lines, *biases, *norms)
        ]

    def pack(self, dtype: torch.dtype) -> PackedBlock:
        """The block as the library takes it."""
        attention, (kernel, spec) = self.block.self_attn, (self.linears["q"].kernel, self.linears["q"].spec)
        shape = Shape(
            heads=self.linears["q"].out_features // attention.head_dim,
            kv_heads=self.linears["k"].out_features // attention.head_dim,
            head_size=attention.head_dim,
            eps=self.eps,
            scaling=attention.scaling,
            activation=self.activation,
            digits=KERNELS[kernel].digits[dtype],
        )
        layers = {name: PackedLayer(layer.packed(), spec.weight, layer.bias) for name, layer in self.linears.items()}
        norms = {name: norm.weight.float() + self.norm_offset for name, norm in self.norms.items()}
        return PackedBlock(layers, norms, shape)


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
