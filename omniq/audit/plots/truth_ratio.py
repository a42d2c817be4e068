"""The distribution of the truth ratio over items, of every model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from omniq.audit.plots.base import PLOTS, Plot, handle, legend, looks
from omniq.audit.result import Result
from omniq.page.figures import INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC, SPLITS = "tr_prob_mean", ("forget", "retain", "world")
WIDEST = 1e4
"""Ratios beyond this, or its inverse, are drawn at the edge."""


def draw(result: Result) -> Figure | None:
    """A panel for a split, a step line for a model."""
    found = ratios(result)
    splits = [split for split in SPLITS if any(key[1] == split for key in found)]
    if not splits:
        return None
    figure, grid = panels(1, len(splits), WIDTH, 3.6, sharex=True, sharey=True)
    styles, drawn = looks(result.models), {}
    for axes, split in zip(grid[0], splits, strict=True):
        for name, look in styles.items():
            values = found.get((name, split))
            if values is not None:
                axes.ecdf(values, color=look.colour, linestyle=look.line, linewidth=1.5)
                drawn[name] = handle(look)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel("truth ratio: false answer / true answer")
        axes.set_title(split, fontweight="bold")
    grid[0][0].set_ylabel("share of items at or below")
    legend(figure, list(drawn.values()), columns=3)
    return figure


def ratios(result: Result) -> dict[tuple[str, str], np.ndarray]:
    """(model name, split) -> truth ratio R of every item, from the items' probability share 1 / (1 + R)."""
    found: dict[tuple[str, str], list[float]] = {}
    for item in result.items:
        if item.metric == METRIC and item.evaluator == "qa_ll" and item.attribute == "" and item.layer is None:
            found.setdefault((item.name, item.split), []).append(item.value)
    edge = 1 / (1 + WIDEST)
    shares = {key: np.clip(values, edge, 1 - edge) for key, values in found.items()}
    return {key: (1 - values) / values for key, values in shares.items()}


PLOTS.add("truth_ratio")(
    Plot(
        "Truth ratio of every item",
        "For each model the share of items whose truth ratio is at most the value below. Left of 1 the true answer is "
        "the likelier one. A model that knows lies far to the left; a forgotten split should look like that of the "
        "never-trained model.",
        5,
        draw,
    )
)
