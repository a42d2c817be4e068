"""Forgotten over kept knowledge, with an arrow from every model to its quantised forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import base_name, drawn_figures, overall
from omniq.audit.plots.base import (
    PLOTS,
    Plot,
    chance_handle,
    chance_of,
    draw_chance,
    handle,
    is_share,
    legend,
    looks,
    spread,
)
from omniq.audit.result import Result
from omniq.audit.wording import ROLE_WORDS, KeyFigure
from omniq.page.figures import INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 2
LABELLED = 6
"""With more quantised models than this, labels at the points would hide each other."""


def draw(result: Result) -> Figure | None:
    """One panel for each of the first key figures that both splits have."""
    keys = drawn_figures(result, ("forget", "retain"), MOST)
    if not keys or not any(model.bits < 16 for model in result.models):
        return None
    figure, grid = panels(1, len(keys), WIDTH if len(keys) == MOST else WIDTH / 2, 4.9)
    chance = [plane(axes, result, key) for axes, key in zip(grid[0], keys, strict=True)]
    styles, roles = looks(result.models), {}
    for model in result.models:
        roles.setdefault(model.role, handle(styles[model.name], ROLE_WORDS.get(model.role, model.role), marker=True))
    legend(figure, [*roles.values(), *([chance_handle()] if any(chance) else [])], columns=6)
    return figure


def plane(axes: Axes, result: Result, key: KeyFigure) -> bool:
    """The models as points (retain, forget) with intervals; whether there is a chance line."""
    across, up = (overall(result, key.evaluator, key.metric, split) for split in ("retain", "forget"))
    styles = looks(result.models)
    both = [model for model in result.models if model.name in across and model.name in up]
    crowded = sum(model.bits < 16 for model in both) > LABELLED
    for model in both:
        x, y, look = across[model.name], up[model.name], styles[model.name]
        bars = {"xerr": spread([x]), "yerr": spread([y]), "elinewidth": 0.7, "alpha": 0.6}
        axes.errorbar(x.value, y.value, color=look.colour, **bars)
        axes.plot(x.value, y.value, color=look.colour, marker=look.marker, markersize=7, linestyle="none")
        base = base_name(result, model)
        if base in across and base in up:
            start = (across[base].value, up[base].value)
            arrow = {"arrowstyle": "-|>", "color": look.colour, "linewidth": 1.2, "shrinkA": 4, "shrinkB": 5}
            axes.annotate("", (x.value, y.value), start, arrowprops=arrow)
            if not crowded:
                axes.annotate(model.label[:24], (x.value, y.value), (-7, 7), textcoords="offset points", ha="right",
                              fontsize="x-small", color=INK)  # fmt: skip
    axes.set(xlabel=f"retain: {key.label}", ylabel=f"forget: {key.label}", title=key.label)
    if is_share([*across.values(), *up.values()]):
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return draw_chance(axes, chance_of(up.values())) | draw_chance(axes, chance_of(across.values()), horizontal=False)


PLOTS.add("plane")(
    Plot(
        "Forgotten against kept knowledge",
        "Right is good, low is forgotten. Arrows lead from each model to its quantised form. An arrow that rises from "
        "the unlearned model means that forgotten knowledge came back; the arrow of the original shows what "
        "quantisation does to a model that has nothing to hide.",
        3,
        draw,
    )
)
