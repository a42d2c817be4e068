"""Loss, time and memory of every block: as plots, and as a table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from omniq.calibrate.trouble import Trouble
from omniq.eval.size import human_bytes
from omniq.page.figures import drawn, lacking, picture
from omniq.page.markup import Markup, details, paragraph, section, table, tag
from omniq.page.words import duration, small
from omniq.reporting.plots import PLOTS
from omniq.reporting.record import BlockRecord, Record


def blocks(record: Record) -> Markup:
    """The plots that the record has data for, or why there are none, and the table."""
    parts: list[Markup] = []
    if why := lacking():
        parts.append(paragraph(why, "hint"))
    else:
        found = [drawn(name, plot.title, plot.caption, partial(plot.draw, record)) for name, plot in PLOTS.items()]
        parts += [picture(one) for one in found if one is not None]
    if record.tuned:
        before, after = record.tuned
        said = f"Tuned end to end: KL to the original on sequences held out {before:.4f} → {after:.4f}."
        parts.append(paragraph(said))
    listed = table(head(record), [row(record, block) for block in record.blocks], "numbers")
    return section("blocks", "Block by block", *parts, details(f"All {len(record.blocks)} blocks", listed))


def head(record: Record) -> tuple[str, ...]:
    """The columns of the table; those that no block has anything for are left out."""
    names = ["Block"]
    names += ["Loss before", "Loss after"] if trained(record) else []
    names += ["Error of its output"] if any(block.error is not None for block in record.blocks) else []
    names += ["Time", "Peak memory so far"]
    names += ["Skipped steps"] if record.skipped_steps else []
    names += [name for name in COUNTS if any(counted(block, name) for block in record.blocks)]
    return (*names, "Not reached") if any(block.unreached for block in record.blocks) else tuple(names)


def row(record: Record, block: BlockRecord) -> list[str | Markup]:
    """One line of the table."""
    cells: dict[str, str | Markup] = {
        "Block": str(block.index),
        "Loss before": small(block.loss_before),
        "Loss after": small(block.loss_after),
        "Error of its output": small(block.error),
        "Time": duration(block.seconds),
        "Peak memory so far": "" if block.peak_memory is None else human_bytes(block.peak_memory),
        "Skipped steps": str(block.skipped_steps),
        **{name: counted(block, name) for name in COUNTS},
        "Not reached": tag("td", ", ".join(block.unreached), class_="names"),
    }
    return [cells[name] for name in head(record)]


COUNTS: dict[str, Callable[[Trouble], int | bool | float | None]] = {
    "Largest hidden state": lambda met: met.largest,
    "Groups all zero": lambda met: met.zero_groups,
    "Groups of one value": lambda met: met.constant_groups,
    "Groups rounded to zero": lambda met: met.lost_groups,
    "Sink tokens left out": lambda met: met.sinks,
    "Few tokens": lambda met: len(met.scarce),
    "Damped more": lambda met: len(met.damped),
    "Not compensated": lambda met: len(met.uncompensated),
    "Kept its start": lambda met: met.kept_start,
}
"""What is counted of a block's trouble, by column."""


def counted(block: BlockRecord, name: str) -> str:
    """What a block has to tell in one of COUNTS; '' for nothing."""
    value = COUNTS[name](block.trouble) if block.trouble else None
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3g}" if isinstance(value, float) else str(value or "")


def trained(record: Record) -> bool:
    """Whether the preset trains blocks."""
    return any(block.loss_after is not None for block in record.blocks)
