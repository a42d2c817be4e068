"""A whole decoder block in the CPU library: packed layers and norms as its C structure, and its three calls."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from omniq.kernels.cpu_layout import stored_bits
from omniq.kernels.native import cpu_library
from omniq.kernels.shared_library import TYPES
from omniq.spec import QuantSpec

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("input", "query", "key", "attention_output", "mlp", "mlp_output")
ACTIVATIONS = {"silu": 0, "gelu_pytorch_tanh": 1}
HEAD_STEP = 32
"""Heads are worked on in two halves of whole registers."""


class Layer(ctypes.Structure):
    """omniq::Layer of csrc/cpu/block.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("lines", "scales", "zeros", "bias")),
        *((name, ctypes.c_int64) for name in ("outputs", "columns", "group")),
        *((name, ctypes.c_int32) for name in ("scale_type", "bits", "mid", "unused")),
    )


class Block(ctypes.Structure):
    """omniq::Block of csrc/cpu/block.h."""

    _fields_ = (
        *((name, Layer) for name in LINEARS),
        *((name, ctypes.c_void_p) for name in NORMS),
        *((name, ctypes.c_int64) for name in ("hidden", "heads", "kv_heads", "head_size")),
        *((name, ctypes.c_float) for name in ("eps", "scaling")),
        *((name, ctypes.c_int32) for name in ("activation", "digits")),
    )


@dataclass(frozen=True)
class Shape:
    """Sizes and constants of a block. activation: a key of ACTIVATIONS; digits: bytes an activation becomes."""

    heads: int
    kv_heads: int
    head_size: int
    eps: float
    scaling: float
    activation: str
    digits: int


@dataclass(frozen=True)
class PackedLayer:
    """What prepack of the CPU kernels made of one linear, its grid, and its bias (N,) or None."""

    packed: Mapping[str, Tensor]
    spec: QuantSpec
    bias: Tensor | None


def padded(row: Tensor) -> Tensor:
    """row (N,) -> float32 with zeros behind it up to a whole register, which the library reads."""
    return pad(row.detach().float(), (0, -row.numel() % 16)).contiguous()


class PackedBlock:
    """A block ready for the library. Holds on to every tensor that the structure points into."""

    def __init__(self, layers: Mapping[str, PackedLayer], norms: Mapping[str, Tensor], shape: Shape) -> None:
        """layers: by LINEARS; norms: by NORMS, the factors as they are multiplied with, absent ones left out."""
        self.shape = shape
        self.held: list[Tensor] = []
        sizes = (layers["q"].packed["sizes"][1], shape.heads, shape.kv_heads, shape.head_size)
        self.block = Block(
            *(self._layer(layers[name]) for name in LINEARS),
            *(self._kept(padded(norms[name])) if name in norms else None for name in NORMS),
            *map(int, sizes),
            *(shape.eps, shape.scaling, ACTIVATIONS[shape.activation], shape.digits),
        )
        self.address = ctypes.addressof(self.block)

    def _kept(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        # Under another name: the memory stays even where the tensor itself is given another.
        self.held.append(tensor.detach())
        return tensor.data_ptr()

    def _layer(self, layer: PackedLayer) -> Layer:
        packed, (n, k) = layer.packed, layer.packed["sizes"].tolist()
        return Layer(
            *(self._kept(packed.get(name)) for name in ("lines", "scales", "zeros")),
            self._kept(None if layer.bias is None else padded(layer.bias)),
            *(n, k, layer.spec.width(k)),
            *(TYPES[packed["scales"].dtype], stored_bits(layer.spec.bits), layer.spec.mid, 0),
        )

    def project(self, hidden: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (B, T, D), angles (1 or B, T, head size), dense and of one dtype -> queries (B, H, T, head size) and
        keys, values (B, kv heads, T, head size), normed and rotated."""
        (batch, length, _), shape = hidden.shape, self.shape
        queries = hidden.new_empty(batch, shape.heads, length, shape.head_size)
        keys = hidden.new_empty(batch, shape.kv_heads, length, shape.head_size)
        values = torch.empty_like(keys)
        status = cpu_library()[0].omniq_cpu_block_project(
            self.address, hidden.data_ptr(), TYPES[hidden.dtype], batch, length,
            cosines.data_ptr(), sines.data_ptr(), cosines.shape[0] * length,
            queries.data_ptr(), keys.data_ptr(), values.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        check(status)
        return queries, keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """queries (B, H, T, head size) over keys, values (B, kv heads, S, head size) -> (B, T, H * head size), causal:
        the last query sees all S keys."""
        if not queries.dtype == keys.dtype == values.dtype:
            raise RuntimeError(
                f"the cache holds {keys.dtype} keys and {values.dtype} values, which is not the dtype of the model, "
                f"{queries.dtype}; start with a new cache"
            )
        batch, heads, length, size = queries.shape
        out = queries.new_empty(batch, length, heads * size)
        status = cpu_library()[0].omniq_cpu_block_attend(
            self.address, queries.data_ptr(), TYPES[queries.dtype], batch, length, keys.data_ptr(), values.data_ptr(),
            keys.shape[2], *keys.stride()[:3], out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        check(status)
        return out

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The same hidden, and attended (B, T, H * head size), dense -> the block's output (B, T, D)."""
        out = torch.empty_like(hidden)
        status = cpu_library()[0].omniq_cpu_block_finish(
            self.address, hidden.data_ptr(), TYPES[hidden.dtype], *hidden.shape[:2], attended.data_ptr(),
            out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        check(status)
        return out


def check(status: int) -> None:
    """Raises for a status other than 0."""
    if status:
        raise MemoryError("the CPU library found no memory for its intermediate results")
