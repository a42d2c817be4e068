"""Key figures of every model on every split as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import overall
from omniq.audit.plots.base import (
    PLOTS,
    Look,
    Plot,
    chance_handle,
    chance_of,
    draw_chance,
    is_share,
    legend,
    looks,
    spread,
)
from omniq.audit.result import Result, Row
from omniq.audit.wording import DRAWN, KEY_FIGURES, KEY_SPLITS, KeyFigure
from omniq.page.figures import INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST, MANY_MODELS = 5, 9
BAR = 0.24
"""Inches of height of a bar with the space around it."""


def draw(result: Result) -> Figure | None:
    """A row of panels for a metric, a column for a split, a bar for a model."""
    found = {
        (key, split): rows
        for key in KEY_FIGURES
        for split in KEY_SPLITS
        if key.metric in DRAWN and (rows := overall(result, key.evaluator, key.metric, split))
    }
    if not found:
        return None
    most = MOST if len(result.models) < MANY_MODELS else MOST // 2
    keys = list(dict.fromkeys(key for key, _ in found))[:most]
    splits = [split for split in KEY_SPLITS if any((key, split) in found for key in keys)]
    height = len(keys) * (0.75 + BAR * len(result.models)) + 0.3
    figure, grid = panels(len(keys), len(splits), WIDTH, height, sharey=True)
    styles, chance = looks(result.models), False
    for line, key in zip(grid, keys, strict=True):
        for axes, split in zip(line, splits, strict=True):
            chance |= bars(axes, found.get((key, split), {}), styles)
            titled(axes, key, split, first=key is keys[0])
            if (key, split) not in found and axes is not line[0]:
                axes.set_axis_off()
    if chance:
        legend(figure, [chance_handle()])
    return figure


def titled(axes: Axes, key: KeyFigure, split: str, first: bool) -> None:
    """Names the split above the first row, and the metric below every panel."""
    if first:
        axes.set_title(split, fontweight="bold")
    axes.set_xlabel(key.label)


def bars(axes: Axes, rows: dict[str, Row], styles: dict[str, Look]) -> bool:
    """One bar for each model with its interval, the first model on top; whether there is a chance line."""
    places = {name: len(styles) - index for index, name in enumerate(styles)}
    axes.set_yticks(list(places.values()), [look.label for look in styles.values()])
    axes.grid(axis="y", visible=False)
    for name, row in rows.items():
        look = styles[name]
        drawn = axes.barh(places[name], row.value, 0.72, color=look.colour, hatch=look.hatch, edgecolor="#ffffffaa")
        drawn.patches[0].set_linewidth(0)
        axes.errorbar(row.value, places[name], xerr=spread([row]), color=INK, linewidth=1, capsize=2.5)
        if row.gate != "ok":
            axes.annotate(row.gate.replace("_", " "), (0.98, places[name]), xycoords=("axes fraction", "data"),
                          ha="right", va="center", fontsize="x-small", color=INK)  # fmt: skip
    for name in [name for name in styles if rows and name not in rows]:
        axes.annotate("N/A", (0.02, places[name]), xycoords=("axes fraction", "data"), va="center", fontsize="x-small")
    if rows and is_share(rows.values()):
        axes.set_xlim(0, 1.02)
    axes.set_ylim(0.4, len(styles) + 0.6)
    return draw_chance(axes, chance_of(rows.values()), horizontal=False)


PLOTS.add("bars")(
    Plot(
        "What each model knows",
        "Bars are means over the items of a split, whiskers 95 % intervals. The dotted line is what ignorance scores. "
        "Unlearning should shorten the bars under forget and leave the others; quantisation should change neither by "
        "more than it changes the original's. Hatched bars are quantised models.",
        1,
        draw,
    )
)
