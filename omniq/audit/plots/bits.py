"""Knowledge over bit widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import drawn_figures, measured_figures, overall
from omniq.audit.plots.base import (
    COLOURS,
    LINES,
    MARKERS,
    PLOTS,
    Plot,
    chance_handle,
    chance_of,
    draw_chance,
    is_share,
    legend,
    spread,
)
from omniq.audit.result import Result, Row
from omniq.audit.wording import KEY_SPLITS
from omniq.page.figures import WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 2
STARTS = {"orig_q": "orig_fp", "unl_q": "unl_fp"}
WORDS = {"orig_q": "original", "unl_q": "unlearned"}
LEVELS = {"orig_fp": ("original in full precision", "--"), "never_fp": ("never trained", "-.")}


def draw(result: Result) -> Figure | None:
    """A row of panels for a metric, a column for a split, a line for each role and quantiser."""
    widths = sorted({model.bits for model in result.models}, reverse=True)
    if len({model.bits for model in result.models if model.role in STARTS}) < 2:
        return None
    splits = [split for split in KEY_SPLITS if measured_figures(result, [split])]
    keys = drawn_figures(result, splits, MOST) if splits else ()
    if not keys:
        return None
    figure, grid = panels(len(keys), len(splits), WIDTH, 2.7 * len(keys) + 0.5)
    handles: dict[str, object] = {}
    for line, key in zip(grid, keys, strict=True):
        for axes, split in zip(line, splits, strict=True):
            rows = overall(result, key.evaluator, key.metric, split)
            lines(axes, result, rows, widths, handles)
            axes.set_xticks(range(len(widths)), [str(width) for width in widths])
            axes.set(xlabel="bits of a weight", ylabel=key.label if axes is line[0] else "")
            axes.set_title(split if line is grid[0] else "", fontweight="bold")
            if is_share(rows.values()):
                axes.set_ylim(-0.03, 1.03)
            if draw_chance(axes, chance_of(rows.values())):
                handles["chance"] = chance_handle()
    legend(figure, list(handles.values()))
    return figure


def lines(axes: Axes, result: Result, rows: dict[str, Row], widths: list[int], handles: dict[str, object]) -> None:
    """The levels of models that are not quantised, and a line over widths for each role and quantiser."""
    models = {model.name: model for model in result.models}
    for name, row in rows.items():
        if models[name].role in LEVELS:
            label, style = LEVELS[models[name].role]
            handles[label] = axes.axhline(row.value, color=COLOURS[row.role], linestyle=style, label=label, linewidth=1)
    methods = list(dict.fromkeys(row.quant_method for row in rows.values() if row.role in STARTS))
    for role, start in STARTS.items():
        first = [row for row in rows.values() if row.role == start]
        for index, method in enumerate(methods):
            own = [row for row in rows.values() if row.role == role and row.quant_method == method]
            if not own:
                continue
            points = first + sorted(own, key=lambda row: -row.bits)
            label = f"{WORDS[role]}, {method or 'quantised'}"
            places = [widths.index(row.bits) for row in points]
            look = {"color": COLOURS[role], "marker": MARKERS[role], "linestyle": LINES[index % len(LINES)]}
            values = [row.value for row in points]
            bars = {"yerr": spread(points), "capsize": 2.5, "elinewidth": 0.9, "markersize": 4.5, "linewidth": 1.6}
            handles[label] = axes.errorbar(places, values, label=label, **look, **bars)


PLOTS.add("bits")(
    Plot(
        "Knowledge over bit widths",
        "Each line starts at the model in full precision (16 bits). Where the orange line rises under forget towards "
        "the blue one, quantisation brings knowledge back; where it falls under retain faster than the blue one, "
        "quantisation costs the unlearned model more than it costs the original.",
        2,
        draw,
    )
)
