"""The plots of a run: loss and error of every block, and what each took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omniq.page.figures import INK, WIDTH, panels
from omniq.reporting.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, OWN = "#6A6A6A", "#C44601", "#0072B2"
LINE = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}
MIB = 1024**2


def losses(record: Record) -> Figure | None:
    """Lines over blocks: the loss before and after where the preset trains, and the error of the hidden states."""
    lines = {
        "loss of the block before": ([block.loss_before for block in record.blocks], BEFORE, "--"),
        "loss of the block after": ([block.loss_after for block in record.blocks], AFTER, "-"),
        "error of the hidden states after the block": ([block.error for block in record.blocks], OWN, "-"),
    }
    shown = {name: line for name, line in lines.items() if any(value for value in line[0])}
    if not shown:
        return None
    figure, grid = panels(1, 1, WIDTH, 3.2)
    axes = grid[0][0]
    for name, (values, colour, style) in shown.items():
        points = [(block.index, value) for block, value in zip(record.blocks, values, strict=True) if value]
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, label=name, **LINE)
    axes.set_yscale("log")
    plain_powers(axes)
    axes.set(xlabel="block", ylabel="relative to the output's power")
    whole_numbers(axes)
    axes.legend(frameon=False)
    return figure


def costs(record: Record) -> Figure | None:
    """Bars of the seconds of every block, and the most memory held until its end."""
    if not record.blocks:
        return None
    peaks = [(block.index, block.peak_memory / MIB) for block in record.blocks if block.peak_memory is not None]
    figure, grid = panels(1, 2 if peaks else 1, WIDTH, 2.6)
    places = [block.index for block in record.blocks]
    grid[0][0].bar(places, [block.seconds for block in record.blocks], color=OWN, width=0.8)
    grid[0][0].set(xlabel="block", ylabel="seconds")
    if peaks:
        grid[0][1].plot(*zip(*peaks, strict=True), color=INK, **LINE)
        grid[0][1].set(xlabel="block", ylabel="peak memory so far, MiB")
        grid[0][1].set_ylim(0, 1.1 * max(peak for _, peak in peaks))
    for axes in grid[0]:
        whole_numbers(axes)
    return figure


def plain_powers(axes: Axes) -> None:
    """Plain figures on a logarithmic axis: the page has no formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    low, high = axes.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())


def whole_numbers(axes: Axes) -> None:
    """Blocks have no halves."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@dataclass(frozen=True)
class Plot:
    """draw: a figure, or None where the record has no data for it. caption: how to read it."""

    title: str
    caption: str
    draw: Callable[[Record], Figure | None]


PLOTS = {
    "losses": Plot(
        "Loss per block",
        "The loss is the preset's own, of one block alone on what the quantised blocks before it give; the error "
        "compares the hidden states of both whole models and therefore adds up from block to block. Both are relative "
        "to the power of the original's hidden states; a few tokens with huge values can dominate that power.",
        losses,
    ),
    "costs": Plot(
        "Time and memory",
        "Seconds of each block, and the most memory that the process had held when the block was done.",
        costs,
    ),
}
"""By the ids that their figures have on the page."""
