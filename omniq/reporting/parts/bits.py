"""Bits per layer, where linears differ in them."""

from __future__ import annotations

from collections.abc import Iterable

from omniq.page.markup import Markup, paragraph, section, tag
from omniq.reporting.parts.kinds import heat_map
from omniq.reporting.record import LinearRecord, Record
from omniq.spec import LinearSpec


def bits(record: Record) -> Markup:
    """The heat map of weight bits; nothing where all linears have the same."""
    if len({bits_of(linear) for linear in record.linears}) < 2:
        return Markup("")
    said = paragraph(f"Chosen by measured sensitivity: {record.allocation}.") if record.allocation else ""
    return section("bits", "Bits per layer", said, heat_map(record, cell))


def bits_of(linear: LinearRecord) -> int:
    """Bits of a linear's weight."""
    return LinearSpec.parse(linear.scheme).weight.bits


def cell(linears: Iterable[LinearRecord]) -> Markup:
    """'4', or '2–4' where experts differ."""
    found = sorted({bits_of(linear) for linear in linears})
    said = str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"
    return tag("td", said, class_=f"b{found[-1]}")
