"""Error per layer: every linear by block and kind, the worst of them, and how their codes are used."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from math import sqrt

from omniq.page.markup import Markup, details, paragraph, section, table, tag
from omniq.page.words import share
from omniq.reporting.parts.kinds import by_kind, heat_map, kinds
from omniq.reporting.parts.style import STEPS
from omniq.reporting.record import LinearRecord, Record

WORST, MANY = 10, 600
"""How many linears are listed as the worst, and up to how many all are."""

OUTPUTS = (
    "What each linear computes from a few calibration tokens, against the same from its weight before rounding: the "
    "root of the squared error over the squared output, in per cent. "
)
WEIGHTS = (
    "The weight of each linear against what it was before rounding: the root of the squared error over the squared "
    "weight, in per cent; no tokens were seen, so what the error does to outputs is not known. "
)
EXPERTS = "Experts share a cell, which shows the worst of them. "
TUNED = "Scales were tuned end to end afterwards, which is not in these figures. "
COLOURS = "A few rows of each weight and of its input are looked at. Colours mean the same in every report."


def layers(record: Record) -> Markup:
    """The heat map of errors with how to read it, and tables of what stands out."""
    known = [linear for linear in record.linears if linear.weight is not None]
    if not known:
        return Markup("")
    outputs = any(linear.output is not None for linear in known)
    said = (OUTPUTS if outputs else WEIGHTS) + (EXPERTS if any("*" in kind for kind in kinds(record)) else "")
    value: Callable[[LinearRecord], float | None] = lambda one: one.output if outputs else one.weight  # noqa: E731
    parts = [
        paragraph(said + (TUNED if record.tuned else "") + COLOURS, "hint"),
        heat_map(record, lambda linears: cell(linears, value)),
        worst(known, value),
        usage(record),
    ]
    if len(known) <= MANY:
        parts.append(details(f"All {len(known)} linears", listing(record.linears)))
    return section("layers", "Error per layer", *parts)


def cell(linears: Iterable[LinearRecord], value: Callable[[LinearRecord], float | None]) -> Markup:
    """The worst error among linears, coloured."""
    found = [error for one in linears if (error := value(one)) is not None]
    if not found:
        return tag("td", "", title="no token reached it")
    percent = 100 * sqrt(max(found))
    return tag("td", f"{percent:.1f}", class_=f"h{bisect_right(STEPS, percent)}")


def worst(known: list[LinearRecord], value: Callable[[LinearRecord], float | None]) -> Markup:
    """The linears with the largest errors."""
    found = sorted((one for one in known if value(one) is not None), key=lambda one: -value(one))[:WORST]
    return Markup(tag("h3", "The largest errors") + listing(found))


def listing(linears: Iterable[LinearRecord]) -> Markup:
    """Linears with all that is known of each; columns that none has anything for are left out."""
    rows = [
        {
            "Linear": one.name,
            "Scheme": one.scheme,
            "Shape": f"{one.shape[0]} × {one.shape[1]}",
            "Output error": rooted(one.output),
            "Weight error": rooted(one.weight),
            "Clipped": share(one.clipped),
            "Entropy of a code": "" if one.code_bits is None else f"{one.code_bits:.2f} bits",
        }
        for one in linears
    ]
    head = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    return table(head, [[row[name] for name in head] for row in rows], "numbers")


def rooted(error: float | None) -> str:
    """The root of a relative squared error, in per cent."""
    return share(None if error is None else sqrt(error))


def usage(record: Record) -> Markup:
    """Clipping and the entropy of codes by kind, means over the blocks."""
    rows = []
    for kind in kinds(record):
        own = [one for block in record.blocks for one in by_kind(block).get(kind, ()) if one.weight is not None]
        if own:
            clipped = [one.clipped for one in own if one.clipped is not None]
            carried = mean([one.code_bits for one in own if one.code_bits is not None])
            rows.append((kind, share(mean(clipped)), share(max(clipped, default=0.0)), f"{carried:.2f}"))
    said = (
        "Clipped: weights beyond the ends of their group's grid. The entropy says how many bits the codes really "
        "carry: far below the bits of the scheme, outliers stretch the grid and most codes stand unused."
    )
    head = ("Kind", "Clipped, mean", "Clipped, most", "Entropy of a code, bits")
    return Markup(tag("h3", "How the codes are used") + paragraph(said, "hint") + table(head, rows, "numbers"))


def mean(values: list[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / max(len(values), 1)
