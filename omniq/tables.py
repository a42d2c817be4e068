"""The token table of a loaded model, embedding and output head, at 8 or 4 bits.

On a small model the head is half of what a decoding step reads. Rounded to nearest, symmetric, in groups of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniq.errors import ModelError, UsageError
from omniq.grid import encode, minmax_grid
from omniq.kernels.cpu import Cpu
from omniq.kernels.dispatch import KERNELS
from omniq.nn import DenseHead, QuantEmbedding, QuantLinear, swap_linear
from omniq.qtensor import QTensor
from omniq.spec import FLOAT_BITS, LinearSpec, QuantSpec

TABLE_BITS = (FLOAT_BITS, 8, 4)
GROUPS = (64, 32, 128)
ROWS = 4096
"""Rows quantised at a time: a whole table in float32 could be larger than the model."""


def table_spec(columns: int, bits: int) -> LinearSpec:
    """The grid of a table with rows of `columns`: groups of 64 where they fit."""
    return LinearSpec(QuantSpec(bits, next((group for group in GROUPS if columns % group == 0), -1)))


def quantized_table(weight: Tensor, spec: LinearSpec) -> QTensor:
    """weight (V, D) -> its nearest codes, with scales in the weight's dtype."""
    parts = [
        encode(rows.float(), *minmax_grid(rows.float(), spec.weight, weight.dtype), spec.weight, weight.dtype)
        for rows in weight.detach().split(ROWS)
    ]
    codes, scales, zeros = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scales", "zeros"))
    return QTensor(codes, scales, zeros, spec.weight)


def quantize_tables(model: nn.Module, bits: int, device: torch.device, approximate: bool = False) -> None:
    """Puts the embedding and the output head of a model on `bits` bits (16: as they are); tied ones share one table
    where the head's kernel can look rows up in its own layout."""
    if bits not in TABLE_BITS:
        raise UsageError(f"embedding bits are {bits}; use {', '.join(map(str, TABLE_BITS))}")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    if bits == FLOAT_BITS:
        if type(head) is nn.Linear:
            swap_linear(model, names[head], DenseHead(head))
        return
    factor = row_factor(embedding)
    spec = table_spec(embedding.embedding_dim, bits)
    packed, kernel = None, "torch_dequant"
    if isinstance(head, nn.Linear):
        layer = QuantLinear(quantized_table(head.weight, spec), spec, head.bias, device, approximate)
        swap_linear(model, names[head], layer)
        if head.weight is embedding.weight and (isinstance(KERNELS[layer.kernel], Cpu) or layer.kernel == kernel):
            packed, kernel = layer.packed(), layer.kernel
    if packed is None:
        made = KERNELS[kernel].prepack(quantized_table(embedding.weight, spec), spec)
        packed = {name: tensor.to(device) for name, tensor in made.items()}
    dtype, columns = embedding.weight.dtype, embedding.embedding_dim
    swap_linear(model, names[embedding], QuantEmbedding(packed, kernel, spec, columns, dtype, factor))
    # Whoever asks transformers to tie weights once more, as lm-eval does, would be told that they are gone.
    model.config.tie_word_embeddings = False


def row_factor(embedding: nn.Module) -> Tensor | None:
    """What the architecture multiplies rows of its embedding with, or None; ModelError for an unknown embedding."""
    if type(embedding) is nn.Embedding:
        return None
    buffers = dict(embedding.named_buffers())
    if not isinstance(embedding, nn.Embedding) or set(buffers) != {"embed_scale"}:
        raise ModelError(
            f"the embedding is a {type(embedding).__name__}, which cannot be quantised; keep it at 16 bits"
        )
    return buffers["embed_scale"]
