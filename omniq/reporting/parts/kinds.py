"""Linears of a run by block and kind: the grid that heat maps are drawn on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from omniq.page.markup import Markup, table, tag
from omniq.reporting.record import BlockRecord, LinearRecord, Record

NUMBERED = re.compile(r"(?<=\.)\d+(?=\.)")


def kind_of(block: BlockRecord, linear: LinearRecord) -> str:
    """'model.layers.3.mlp.experts.7.up_proj' in block 3 -> 'mlp.experts.*.up_proj'."""
    _, found, inside = linear.name.partition(f".{block.index}.")
    return NUMBERED.sub("*", inside if found else linear.name)


def by_kind(block: BlockRecord) -> dict[str, list[LinearRecord]]:
    """The linears of a block by kind; the experts of a layer are one kind."""
    found: dict[str, list[LinearRecord]] = {}
    for linear in block.linears:
        found.setdefault(kind_of(block, linear), []).append(linear)
    return found


def kinds(record: Record) -> list[str]:
    """Every kind of linear, in the order of the model."""
    return list(dict.fromkeys(kind for block in record.blocks for kind in by_kind(block)))


def heading(kind: str) -> list[str]:
    """The last part of a kind's name, what it belongs to above it."""
    above, _, own = kind.rpartition(".")
    return [tag("small", above), own]


def heat_map(record: Record, cell: Callable[[Iterable[LinearRecord]], Markup]) -> Markup:
    """A row for each block and a column for each kind. cell: the linears of one kind in one block -> <td>."""
    columns = kinds(record)
    rows = []
    for block in record.blocks:
        own = by_kind(block)
        rows.append((f"block {block.index}", *(cell(own[kind]) if kind in own else tag("td") for kind in columns)))
    return table(["", *map(heading, columns)], rows, "heat")
