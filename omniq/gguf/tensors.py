"""Tensors: what a GGUF file holds of a checkpoint's weights: names, kinds and rows as llama.cpp wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import gguf
import torch
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.formats.base import Format
from omniq.gguf.architectures import Architecture, architecture_for, head_size
from omniq.gguf.blocks import Block, block_for, encode
from omniq.gguf.metadata import rope_factors
from omniq.hf import OpenModel
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, TableSpec
from omniq.vocab.rounding import Tables
from omniq.vocab.stored import StoredTables

FLOAT_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
LEAVES = (".weight", ".bias")
LINEAR_FIX = "quantise the original with --format gptq, whose scales are float16 from the start, and export that"
TABLE_FIX = "quantise the original with --embed-bits 16"
ROUTER = "ffn_gate_inp.weight"
EXPERT = re.compile(r"\.experts\.\d+\.")
"""The number of an expert in a parameter's name, which the experts of a layer share in a GGUF file."""
TURNED = ("self_attn.q_proj", "self_attn.k_proj")
"""Linears whose output rows pair up in the rotary embedding."""


class Layer(Protocol):
    """A quantised linear: its names in model and checkpoint, its spec and its shape (N, K)."""

    name: str
    stored: str
    spec: LinearSpec
    shape: tuple[int, int]


class Checkpoint(Protocol):
    """A quantised checkpoint of which only headers have been read."""

    model: OpenModel
    form: Format
    layers: tuple[Any, ...]
    stored_tables: StoredTables

    @property
    def table(self) -> TableSpec | None:
        """The grid of the embedding table and the output head, or None."""

    def weight(self, layer: Any) -> QTensor:
        """The integers of one linear, read anew."""

    def tables(self) -> Tables:
        """The quantised tables, read anew."""


@dataclass(frozen=True)
class Blocks:
    """A tensor of integers: a linear (N, K), the experts of a layer one after another (E, N, K), or a table (V, D).

    name: GGUF's. reads: the rows in the file's order, of each linear. layers: the linears, none for a table.
    """

    name: str
    shape: tuple[int, ...]
    block: Block
    reads: tuple[Callable[[], QTensor], ...]
    layers: tuple[Layer, ...] = ()

    @property
    def kind(self) -> str:
        """llama.cpp's word for its numbers."""
        return self.block.name

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.block.columns * self.block.nbytes

    def data(self) -> Tensor:
        """Its bytes, uint8; UnsupportedError where a scale is none that the block holds."""
        fix = LINEAR_FIX if self.layers else TABLE_FIX
        return torch.cat([encode(read(), self.block, self.name, fix) for read in self.reads])


@dataclass(frozen=True)
class Floats:
    """A tensor of floating-point numbers. name: GGUF's; read: the numbers, in the dtype they are kept in."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    layers: tuple[Layer, ...] = ()

    @property
    def kind(self) -> str:
        """llama.cpp's word for its numbers."""
        return FLOAT_KINDS[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def data(self) -> Tensor:
        """Its bytes, uint8."""
        return self.read().contiguous().view(-1).view(torch.uint8)


Stored = Blocks | Floats


def stored(checkpoint: Checkpoint) -> tuple[Stored, ...]:
    """The tensors of the file, in the model's order; UnsupportedError names one that llama.cpp has no place for."""
    model, values = checkpoint.model, checkpoint.model.config.to_dict()
    known = architecture_for(values)
    layers = {f"{layer.name}.weight": layer for layer in checkpoint.layers}
    tables = checkpoint.stored_tables
    places = {f"{module}.weight": module for module in tables.places}
    named = names(model, known)
    found: list[Stored] = []
    for param, shape in _parameters(model):
        order = row_order(param, values, known)
        if param in layers:
            found.append(_linear(checkpoint, layers[param], named[param], order))
        elif param in places:
            found.append(_table(checkpoint, places[param], named[param]))
        elif param not in tables.parameters():
            found.append(_floats(model, param, named[param], shape, order))
    factors = rope_factors(values, known)
    if factors is not None:
        found.append(Floats("rope_freqs.weight", tuple(factors.shape), torch.float32, lambda: factors))
    return _stacked(found)


def _stacked(tensors: list[Stored]) -> tuple[Stored, ...]:
    """Tensors of one name, which the experts of a layer have, as one."""
    found: dict[str, list[Stored]] = {}
    for tensor in tensors:
        found.setdefault(tensor.name, []).append(tensor)
    return tuple(parts[0] if len(parts) == 1 else _stack(parts) for parts in found.values())


def _stack(parts: list[Stored]) -> Blocks:
    """The experts (N, K) of a layer as one tensor (E, N, K)."""
    first = parts[0]
    other = next((part for part in parts if (part.kind, part.shape) != (first.kind, first.shape)), None)
    if other is not None or not isinstance(first, Blocks):
        kinds = ", ".join(dict.fromkeys(part.kind for part in parts))
        raise UnsupportedError(
            f"llama.cpp keeps the experts of a layer in one tensor of one kind of block, and those of {first.name} are "
            f"{kinds}; give them the same bits"
        )
    reads = tuple(read for part in parts for read in part.reads)
    layers = tuple(layer for part in parts for layer in part.layers)
    return Blocks(first.name, (len(parts), *first.shape), first.block, reads, layers)


def names(model: OpenModel, known: Architecture) -> Mapping[str, str]:
    """GGUF's name of every parameter, by the model's."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == known.name)
    mapped = gguf.get_tensor_name_map(kind, len(model.skeleton.get_submodule(model.blocks)))
    found = {param: mapped.get_name(EXPERT.sub(".experts.", param), LEAVES) for param, _ in _parameters(model)}
    for param, name in found.items():
        linear = param.removeprefix(model.blocks).partition(".")[2].partition(".")[2].removesuffix(".bias")
        if name is None or (param.endswith(".bias") and linear not in known.biased):
            raise UnsupportedError(f"llama.cpp's {known.name} models have no tensor for {param}")
    return found


def row_order(param: str, values: Mapping[str, Any], known: Architecture) -> Tensor | None:
    """(N,) which of the model's rows stands in each row of the file, or None where they are the same.

    transformers pairs row i of a head with row i + D/2 in the rotary embedding; llama.cpp, where it interleaves, pairs
    neighbours: so its rows are those two halves taken in turn.
    """
    module = param.rpartition(".")[0]
    if not known.interleaved or not module.endswith(TURNED):
        return None
    heads = values["num_attention_heads"]
    if module.endswith(TURNED[1]):
        heads = values.get("num_key_value_heads") or heads
    size = head_size(values)
    return torch.arange(heads * size).view(heads, 2, size // 2).transpose(1, 2).reshape(-1)


def _parameters(model: OpenModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes; a head that is the embedding is named once, as the embedding."""
    return ((name, tuple(value.shape)) for name, value in model.skeleton.named_parameters())


def _linear(checkpoint: Checkpoint, layer: Layer, name: str, order: Tensor | None) -> Blocks:
    scales = _scale_dtype(checkpoint, layer.stored, checkpoint.form.leaves(layer.spec))
    block = block_for(layer.spec.weight, layer.shape[1], scales)
    read = partial(_rows, partial(checkpoint.weight, layer), order)
    return Blocks(name, layer.shape, block, (read,), (layer,))


def _table(checkpoint: Checkpoint, module: str, name: str) -> Blocks:
    tables = checkpoint.stored_tables

    def read() -> QTensor:
        made = checkpoint.tables()
        return made.embedding if module == tables.embedding else made.head

    place, shape = tables.places[module], tables.shape(module)
    scales = _scale_dtype(checkpoint, place.name, checkpoint.form.tables.leaves(place))
    return Blocks(name, shape, block_for(place.spec.weight, shape[1], scales), (read,))


def _scale_dtype(checkpoint: Checkpoint, stored: str, leaves: tuple[str, ...]) -> torch.dtype:
    """The dtype of the scales among the tensors of a module, which are all else integers."""
    dtypes = (checkpoint.model.reader.info(f"{stored}.{leaf}").dtype for leaf in leaves)
    return next(dtype for dtype in dtypes if dtype.is_floating_point)


def _rows(read: Callable[[], QTensor], order: Tensor | None) -> QTensor:
    """The integers in the file's order of rows."""
    q = read()
    if q.order is not None:
        raise UnsupportedError(
            "a linear has groups that are not of neighbouring inputs (act-order), which GGUF cannot say. What can: "
            "--format dense."
        )
    if order is None:
        return q
    return replace(q, codes=q.codes[order], scales=q.scales[order], zeros=q.zeros[order])


def _floats(model: OpenModel, param: str, name: str, shape: tuple[int, ...], order: Tensor | None) -> Floats:
    """A parameter in floating point. Vectors are float32, as llama.cpp wants them; matrices stay what they are.

    The matrix by which a token chooses its experts is float32 too, since llama.cpp rounds the input of a narrower one.
    A gate of a single row is a vector.
    """
    dtype = model.reader.info(model.stored_name(param)).dtype
    shape = shape[1:] if len(shape) == 2 and shape[0] == 1 else shape
    kept = torch.float32 if len(shape) == 1 or name.endswith(ROUTER) else dtype
    if dtype not in FLOAT_KINDS:
        raise UnsupportedError(f"{param} is {dtype}, which GGUF's readers do not compute with; store it in float32")
    # float32(1 + weight) is what a norm with an offset multiplies by in transformers, too.
    offset = model.adapter.norm_offset if len(shape) == 1 and "norm" in param.split(".")[-2] else 0.0

    def read() -> Tensor:
        values = model.read(param).to(kept)
        return ((values if order is None else values[order]) + offset).view(shape)

    return Floats(name, shape, kept, read)
