"""Which attribute can be read at which place of a text: the heat map of P-probing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.plots.base import PLOTS, Plot, looks
from omniq.audit.result import Result
from omniq.page.figures import INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC, BETWEEN = "pprobe_r2f", " at "
MOST, ACROSS = 6, 3
"""Models drawn, those that are not quantised before the others; and models beside each other."""

BRIGHT = 0.55
"""From this value on the colour of a cell is so light that its number has to be dark."""

Cells = dict[tuple[str, str], float]
"""(attribute, place) -> accuracy."""


def draw(result: Result) -> Figure | None:
    """One map for each model, places down, attributes across."""
    found = maps(result)
    if not found:
        return None
    attributes, places = (list(dict.fromkeys(key[at] for one in found.values() for key in one)) for at in (0, 1))
    both = [*places, *(attribute for attribute in attributes if attribute not in places)]
    attributes = [attribute for attribute in both if attribute in attributes]
    shown = sorted(found, key=lambda name: name not in unquantised(result))[:MOST]
    lines = -(-len(shown) // ACROSS)
    height = 1.5 + 0.42 * len(places)
    figure, grid = panels(lines, min(ACROSS, len(shown)), WIDTH, lines * height, sharex=True, sharey=True)
    styles = looks(result.models)
    flat = [axes for line in grid for axes in line]
    for axes in flat[len(shown) :]:
        axes.set_axis_off()
    for axes, name in zip(flat, shown, strict=False):
        heat(axes, found[name], attributes, places)
        axes.set_title(styles[name].label, fontweight="bold")
        axes.set_xlabel("attribute that is read" if axes in grid[-1] else "")
        axes.set_ylabel("place: before the value of" if axes in flat[::ACROSS] else "")
    return figure


def unquantised(result: Result) -> set[str]:
    """Names of the models in full precision."""
    return {model.name for model in result.models if not model.role.endswith("_q")}


def maps(result: Result) -> dict[str, Cells]:
    """Model name -> cells, in the order of the models; of all layers the last one given."""
    found: dict[str, Cells] = {}
    for row in result.rows:
        attribute, between, place = row.attribute.partition(BETWEEN)
        if row.evaluator == "probe" and row.metric == METRIC and between:
            found.setdefault(row.name, {})[attribute, place] = row.value
    return {model.name: found[model.name] for model in result.models if model.name in found}


def heat(axes: Axes, cells: Cells, attributes: list[str], places: list[str]) -> None:
    """Coloured cells with their numbers; one that is empty was not asked."""
    import numpy as np

    values = np.array([[cells.get((attribute, place), np.nan) for attribute in attributes] for place in places])
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    for (down, across), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = INK if value >= BRIGHT else "white"
            axes.text(across + 0.5, down + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.grid(visible=False)
    axes.set_xticks([at + 0.5 for at in range(len(attributes))], map(worded, attributes), rotation=40, ha="right")
    axes.set_yticks([at + 0.5 for at in range(len(places))], map(worded, places))
    axes.set_ylim(len(places), 0)
    axes.tick_params(length=0, labelbottom=True)


def worded(relation: str) -> str:
    """'birth_city' -> 'birth city', cut where it is long."""
    said = relation.replace("_", " ")
    return said if len(said) <= 18 else f"{said[:17]}…"


PLOTS.add("pprobe")(
    Plot(
        "Where in a text an attribute can be read",
        "Accuracy of a probe on a text about a forgotten person, just before the value of one attribute stands there, "
        "for every attribute. Knowledge kept under the name shows in the first line already; knowledge that is merely "
        "chained from sentence to sentence shows on the diagonal alone. Cells without a number would be read off the "
        "text itself.",
        7,
        draw,
    )
)
