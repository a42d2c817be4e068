"""The plots of a result, drawn where it has data for them."""

from __future__ import annotations

from omniq.audit.plots.base import PLOTS
from omniq.audit.result import Result
from omniq.page.figures import Drawing, drawn, lacking


def drawings(result: Result) -> list[Drawing]:
    """Every plot for which the result has data, in their order; none where matplotlib is not installed."""
    if lacking():
        return []
    places = {name: plot.place for name, plot in PLOTS.items()}
    made = (plotted(name, result) for name in sorted(places, key=places.__getitem__))
    return [one for one in made if one is not None]


def plotted(name: str, result: Result) -> Drawing | None:
    """One plot by name, None where the result has no data for it."""
    plot = PLOTS[name]
    return drawn(name, plot.title, plot.caption, lambda: plot.draw(result))
