"""What quantising a model's embedding table and output head asks for and gives, from the model's headers alone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from omniq.errors import UnsupportedError
from omniq.formats.base import FORMATS, Format, loaders_of_all
from omniq.hf import OpenModel
from omniq.spec import FLOAT_BITS, HeadSpec, LinearSpec, QuantSpec, TableSpec
from omniq.vocab.modules import row_factor
from omniq.vocab.rounding import table_spec

WORKING_BYTES = 4
"""Memory for one weight of a table while it is rounded: as stored, and its code twice, in parts and whole."""


def planned_table(model: OpenModel, bits: int, group_size: int | None, scheme: QuantSpec) -> TableSpec | None:
    """The grid of the tables, or None where they stay in floating point; UsageError for groups that do not fit."""
    if bits == FLOAT_BITS:
        return None
    columns = model.skeleton.get_input_embeddings().embedding_dim
    return TableSpec(table_spec(columns, bits, group_size, scheme).weight, model.tied)


def check_tables(model: OpenModel, table: TableSpec, name: str) -> None:
    """Raises where the architecture or the format `name` has no place for quantised tables."""
    if FORMATS[name].tables is None:
        able = ", ".join(other for other, form in FORMATS.items() if form.tables is not None)
        raise UnsupportedError(
            f"format {name!r} cannot store an embedding table of {table.weight.bits} bits; "
            f"use --format {able}, or --embed-bits {FLOAT_BITS}"
        )
    row_factor(model.skeleton.get_input_embeddings())
    head = model.skeleton.get_output_embeddings()
    if head is not None and not isinstance(head, nn.Linear):
        raise UnsupportedError(
            f"the output head is a {type(head).__name__}, which cannot be quantised; use --embed-bits {FLOAT_BITS}"
        )


def table_weights(model: OpenModel, table: TableSpec | None) -> int:
    """Quantised weights of embedding and output head; one table of both counts once."""
    if table is None:
        return 0
    modules = [model.skeleton.get_input_embeddings(), model.skeleton.get_output_embeddings()]
    return sum({id(module.weight): module.weight.numel() for module in modules if module is not None}.values())


def bits_with_tables(bits: float, linears: int, model: OpenModel, table: TableSpec | None) -> float:
    """The mean over the weights of linears, at `bits`, and of quantised tables; scales are counted."""
    if table is None:
        return bits
    count = table_weights(model, table)
    return (bits * linears + table_bits(model, table) * count) / (linears + count)


def table_bits(model: OpenModel, table: TableSpec) -> float:
    """Stored bits of a table's weight, its share of a scale included."""
    embedding = model.skeleton.get_input_embeddings()
    share = table.weight.groups(embedding.embedding_dim) / embedding.embedding_dim
    return table.weight.bits + 8 * embedding.weight.dtype.itemsize * share


def loaders(
    model: OpenModel, form: Format, specs: Iterable[LinearSpec], table: TableSpec | None, heads: HeadSpec | None
) -> tuple[str, ...]:
    """The runtimes that will load the result, one sentence each. specs: of linears; heads: the grid in attention."""
    if table is None:
        experts = any(".experts." in name for name in model.linears)
        found = loaders_of_all(lambda spec: form.loaded_by(spec, experts, model.has_own_linears()), specs)
    else:
        found = loaders_of_all(lambda spec: form.tables.loaded_by(spec, table, model.has_own_linears()), specs)
    if heads is None:
        return found
    return tuple(f"omniq: yes; with it alone {heads.said}." if one == "omniq: yes." else one for one in found)
