"""How large the update of unlearning is beside a step of the quantiser, and how many codes it flips in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import by_layer
from omniq.audit.plots.base import PLOTS, Look, Plot, handle, legend, looks
from omniq.audit.result import Result
from omniq.page.figures import INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE, FLIPS, BETWEEN, SPLIT = "step_share", "code_flips", " to ", ""
HALF_STEP = 0.5


def draw(result: Result) -> Figure | None:
    """On the left the histogram of |dW| over the step, on the right the flips by layer; either may be missing."""
    shares = histograms(result)
    flips = {name: rows for name, rows in by_layer(result, "weights", FLIPS, SPLIT).items() if len(rows) > 1}
    count = bool(shares) + bool(flips)
    if not count:
        return None
    figure, grid = panels(1, count, WIDTH if count == 2 else WIDTH / 2, 4.0)
    styles = looks(result.models)
    if shares:
        histogram(grid[0][0], shares, styles)
    if flips:
        axes = grid[0][-1]
        for name, rows in flips.items():
            look = styles[name]
            axes.plot([row.layer for row in rows], [row.value for row in rows], color=look.colour, linestyle=look.line,
                      marker=look.marker, markersize=3.5)  # fmt: skip
        axes.set(xlabel="layer", ylabel="share of codes flipped")
        axes.set_ylim(bottom=0)
    legend(figure, [handle(styles[name]) for name in styles if name in shares or name in flips])
    return figure


def histograms(result: Result) -> dict[str, dict[tuple[float, float], float]]:
    """Model name -> range of |dW| over the step -> share of weights, in the order of the ranges."""
    found: dict[str, dict[tuple[float, float], float]] = {}
    for row in result.rows:
        if row.evaluator == "weights" and row.metric == SHARE and BETWEEN in row.attribute:
            low, high = (float(end) for end in row.attribute.split(BETWEEN))
            found.setdefault(row.name, {})[low, high] = row.value
    return {model.name: dict(sorted(found[model.name].items())) for model in result.models if model.name in found}


def histogram(axes: Axes, shares: dict[str, dict[tuple[float, float], float]], styles: dict[str, Look]) -> None:
    """Steps over the ranges, which are drawn equally wide, with a line at half a step of the quantiser."""
    ranges = sorted({one for found in shares.values() for one in found})
    edges = list(range(len(ranges) + 1))
    for name, found in shares.items():
        values, look = [found.get(one, 0.0) for one in ranges], styles[name]
        axes.stairs(values, edges, color=look.colour, linestyle=look.line, linewidth=1.6)
        axes.stairs(values, edges, color=look.colour, fill=True, alpha=0.18 / len(shares) + 0.06)
    lows = [low for low, _ in ranges]
    if HALF_STEP in lows:
        place = lows.index(HALF_STEP)
        axes.axvline(place, color=INK, linewidth=1.1, linestyle="--")
        axes.annotate(" half a step", (place, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize="small")
    names = [f"{low:g}" for low in lows] + [f"{ranges[-1][1]:g}".replace("inf", "∞")]
    axes.set_xticks(edges, names)
    axes.set(xlabel="|ΔW| / Δ: change of a weight over the quantiser's step", ylabel="share of weights")
    axes.set_ylim(bottom=0)


PLOTS.add("weights")(
    Plot(
        "What rounding leaves of the update",
        "Left: how far unlearning moved the weights, in steps of the quantiser; the ranges are drawn equally wide. A "
        "weight left of half a step usually rounds to the code it had before. Right: the share of stored codes that "
        "differ between the quantised original and the quantised unlearned model; near 0 both are the same model.",
        9,
        draw,
    )
)
