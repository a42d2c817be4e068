"""How fast a model relearns what it was made to forget."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from omniq.audit.lookup import overall
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
from omniq.audit.result import Result, Row
from omniq.page.figures import WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "relearn_v"
STEP = re.compile(r"step(\d+)")


def draw(result: Result) -> Figure | None:
    """A line over training steps for each model that was retrained."""
    found = curves(result)
    if not any(len(rows) > 1 for rows in found.values()):
        return None
    figure, ((axes,),) = panels(1, 1, WIDTH * 0.72, 4.2)
    styles = looks(result.models)
    for name, points in found.items():
        look = styles[name]
        steps, rows = list(points), list(points.values())
        style = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "markersize": 4.5}
        axes.errorbar(steps, [row.value for row in rows], yerr=spread(rows), capsize=2.5, elinewidth=0.8, **style)
    reference = ceiling(result)
    if reference:
        axes.axhline(reference.value, color=styles[reference.name].colour, linestyle="--", linewidth=1.2)
    axes.set_xticks(sorted({step for points in found.values() for step in points}))
    every = [row for points in found.values() for row in points.values()]
    chance = draw_chance(axes, chance_of(every))
    axes.set(xlabel="training steps on one half of the forget set", ylabel="answers right on the other half")
    if is_share(every):
        axes.set_ylim(-0.03, 1.03)
    entries = [handle(styles[name]) for name in found]
    if reference:
        entries.insert(0, handle(replace(styles[reference.name], line="--"), "original, not trained"))
    legend(figure, [*entries, *([chance_handle()] if chance else [])], columns=3)
    return figure


def ceiling(result: Result) -> Row | None:
    """What the original answers as it is: all that there is to come back."""
    rows = overall(result, "relearn", METRIC, "forget").values()
    return next((row for row in rows if row.role == "orig_fp"), None)


def curves(result: Result) -> dict[str, dict[int, Row]]:
    """Model name -> step -> row, in the order of the models and the steps."""
    found: dict[str, dict[int, Row]] = {}
    for row in result.rows:
        step = STEP.fullmatch(row.attribute)
        if row.metric == METRIC and step:
            found.setdefault(row.name, {})[int(step.group(1))] = row
    return {model.name: dict(sorted(found[model.name].items())) for model in result.models if model.name in found}


PLOTS.add("relearn")(
    Plot(
        "Relearning",
        "Each model is trained on one half of the forget set and asked about the other half, whose facts cannot be "
        "inferred from the first. A model that had truly lost them rises no faster than the never-trained one.",
        8,
        draw,
    )
)
