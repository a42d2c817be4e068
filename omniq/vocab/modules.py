"""The modules of a loaded model's embedding table and output head, on integers or as they are stored.

On a small model the head is half of what a decoding step reads. Tied ones share one packed table in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniq.errors import ModelError, UsageError
from omniq.kernels.cpu import Cpu
from omniq.kernels.dispatch import KERNELS
from omniq.nn import DenseHead, QuantEmbedding, QuantLinear, swap_linear
from omniq.qtensor import QTensor
from omniq.spec import FLOAT_BITS, TABLE_BITS, LinearSpec
from omniq.vocab.rounding import Tables, quantized_table, table_spec

PLAIN = "torch_dequant"
"""The kernel whose layout gives single rows on any device, for any grid."""
LOOKED_UP = range(4, 9)
"""Bits whose rows the CPU library's layout gives."""


def quantize_tables(model: nn.Module, bits: int, device: torch.device, approximate: bool = False) -> None:
    """Rounds the embedding and the output head of a model to `bits` bits; 16 leaves them as they are."""
    if bits not in TABLE_BITS:
        raise UsageError(f"embedding bits are {bits}; use {', '.join(map(str, TABLE_BITS))}")
    if bits == FLOAT_BITS:
        return put_tables(model, Tables(None, None), device, approximate)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    row_factor(embedding)
    spec = table_spec(embedding.embedding_dim, bits)
    table = quantized_table(embedding.weight, spec)
    if not isinstance(head, nn.Linear):
        return put_tables(model, Tables(table, None), device, approximate)
    own = table if head.weight is embedding.weight else quantized_table(head.weight, spec)
    return put_tables(model, Tables(table, own), device, approximate)


def put_tables(
    model: nn.Module,
    tables: Tables,
    device: torch.device,
    approximate: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Puts quantised tables in the place of a model's embedding and output head, whose weights may be on meta.

    Tied ones share one packed table where the head's kernel can look rows up in its own layout. A head that stays in
    floating point goes to the CPU library for few rows. dtype: of the rows looked up; None takes the embedding's.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    shared = None
    if tables.head is not None:
        spec = LinearSpec(tables.head.spec)
        layer = QuantLinear(tables.head, spec, head.bias, device, approximate)
        swap_linear(model, names[head], layer)
        if tables.head is tables.embedding and looks_up(layer.kernel, tables.head):
            shared = (layer.packed(), layer.kernel)
    elif type(head) is nn.Linear:
        swap_linear(model, names[head], DenseHead(head))
    if tables.embedding is not None:
        packed, kernel = shared or (packed_rows(tables.embedding, device), PLAIN)
        spec, columns, factor = LinearSpec(tables.embedding.spec), tables.embedding.shape[1], row_factor(embedding)
        rows = dtype or embedding.weight.dtype
        swap_linear(model, names[embedding], QuantEmbedding(packed, kernel, spec, columns, rows, factor))
        # Whoever asks transformers to tie weights once more, as lm-eval does, would be told that they are gone.
        model.config.tie_word_embeddings = False


def looks_up(kernel: str, q: QTensor) -> bool:
    """Whether single rows can be had from the layout of a head's kernel."""
    return kernel == PLAIN or (isinstance(KERNELS[kernel], Cpu) and q.spec.symmetric and q.spec.bits in LOOKED_UP)


def packed_rows(q: QTensor, device: torch.device) -> dict[str, Tensor]:
    """A table (V, D) in the layout of PLAIN, on `device`."""
    return {name: tensor.to(device) for name, tensor in KERNELS[PLAIN].prepack(q, LinearSpec(q.spec)).items()}


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
