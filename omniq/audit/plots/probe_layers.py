"""What a linear probe reads out of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import by_layer
from omniq.audit.plots.base import COLOURS, PLOTS, Plot, chance_handle, chance_of, draw_chance, handle, legend, looks
from omniq.audit.result import Result, Row
from omniq.page.figures import FAINT, INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {
    "probe_r2f": "probe trained on retain",
    "probe_f2f": "probe trained on half of forget",
    "probe_transfer": "probe of the original",
}
BANDS = {
    "probe_control": ("forget", "shuffled labels (control)", INK, 0.16),
    "probe_holdout": ("holdout", "people never taught (hold-out)", COLOURS["never_fp"], 0.3),
}


def draw(result: Result) -> Figure | None:
    """A panel for a way of training the probe, a line for a model, bands for the controls."""
    found = {metric: by_layer(result, "probe", metric, "forget") for metric in METRICS}
    shown = [metric for metric in METRICS if any(len(rows) > 1 for rows in found[metric].values())]
    if not shown:
        return None
    figure, grid = panels(1, len(shown), WIDTH, 3.9, sharey=True)
    styles = looks(result.models)
    handles: dict[str, object] = {}
    for axes, metric in zip(grid[0], shown, strict=True):
        bands(axes, result, handles)
        for name, rows in found[metric].items():
            look = styles[name]
            layers, values = [row.layer for row in rows], [row.value for row in rows]
            axes.plot(layers, values, color=look.colour, linestyle=look.line, marker=look.marker, markersize=3.5)
            handles[name] = handle(look, marker=False)
        if draw_chance(axes, chance_of(row for rows in found[metric].values() for row in rows)):
            handles["chance"] = chance_handle()
        axes.set(xlabel="layer", ylim=(0, 1))
        axes.set_title(METRICS[metric], fontweight="bold")
    grid[0][0].set_ylabel("accuracy on forgotten people")
    legend(figure, list(handles.values()), columns=4)
    return figure


def bands(axes: Axes, result: Result, handles: dict[str, object]) -> None:
    """The range, over models and with intervals, of what a probe scores where there is nothing to read."""
    for metric, (split, label, colour, alpha) in BANDS.items():
        by_depth: dict[int, list[Row]] = {}
        for rows in by_layer(result, "probe", metric, split).values():
            for row in rows:
                by_depth.setdefault(row.layer, []).append(row)
        layers = sorted(by_depth)
        if len(layers) > 1:
            low = [min(lower(row) for row in by_depth[layer]) for layer in layers]
            high = [max(upper(row) for row in by_depth[layer]) for layer in layers]
            handles[label] = axes.fill_between(layers, low, high, color=colour, alpha=alpha, linewidth=0, label=label)
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.6)


def lower(row: Row) -> float:
    """The lower end of a row's interval, its value where it has none."""
    return row.value if row.ci_lo is None else row.ci_lo


def upper(row: Row) -> float:
    """The upper end of a row's interval, its value where it has none."""
    return row.value if row.ci_hi is None else row.ci_hi


PLOTS.add("probe_layers")(
    Plot(
        "What a probe reads out of each layer",
        "Accuracy of a linear probe on the hidden states of forgotten people. A line above the bands means that the "
        "layer still holds the knowledge, whether or not the model says it. A line inside them proves nothing.",
        6,
        draw,
    )
)
