"""Key figures on the forget set before and after quantisation, against the line on which nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.audit.lookup import base_name, overall
from omniq.audit.plots.base import COLOURS, PLOTS, Plot, is_share, legend, spread
from omniq.audit.result import Result, Row
from omniq.audit.wording import KEY_FIGURES, ROLE_WORDS, KeyFigure
from omniq.page.figures import FAINT, INK, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = ("forget", "retain")
SIGNS = "o^sDvP*Xh<>p"


def draw(result: Result) -> Figure | None:
    """A panel for a split, a point for a metric and a quantised model."""
    points = {split: points_of(result, split) for split in SPLITS}
    splits = [split for split in SPLITS if points[split]]
    if not splits:
        return None
    figure, grid = panels(1, len(splits), WIDTH if len(splits) == 2 else WIDTH / 2, 5.1)
    for axes, split in zip(grid[0], splits, strict=True):
        panel(axes, split, points[split])
    keys = [key for key in KEY_FIGURES if any(key is other for split in splits for other, _, _ in points[split])]
    roles = [role for role in COLOURS if any(row.role == role for split in splits for _, _, row in points[split])]
    legend(figure, entries(keys, roles), columns=5)
    return figure


def points_of(result: Result, split: str) -> list[tuple[KeyFigure, Row, Row]]:
    """(metric, before, after) for every key figure between 0 and 1 of every quantised model."""
    found = []
    for key in KEY_FIGURES:
        rows = overall(result, key.evaluator, key.metric, split)
        for model in result.models:
            base = base_name(result, model)
            if model.name in rows and base in rows and is_share([rows[base], rows[model.name]]):
                found.append((key, rows[base], rows[model.name]))
    return found


def panel(axes: Axes, split: str, points: list[tuple[KeyFigure, Row, Row]]) -> None:
    """The points of one split; above the line of the forget split the number before quantisation was too low."""
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1)
    if split == "forget":
        axes.fill_between([0, 1], [0, 1], [1, 1], color=COLOURS["unl_q"], alpha=0.13, linewidth=0)
        axes.annotate("unreliable: more is known\nafter quantisation than before", (0.03, 0.97), va="top", color=INK,
                      fontsize="small")  # fmt: skip
    else:
        axes.fill_between([0, 1], [0, 0], [0, 1], color=FAINT, alpha=0.3, linewidth=0)
        axes.annotate("damage: less is known\nafter quantisation than before", (0.97, 0.03), ha="right", color=INK,
                      fontsize="small")  # fmt: skip
    for key, before, after in points:
        look = {"color": COLOURS[after.role], "marker": sign(key), "markersize": 6.5, "linestyle": "none"}
        bars = {"xerr": spread([before]), "yerr": spread([after]), "elinewidth": 0.6, "alpha": 0.85}
        axes.errorbar(before.value, after.value, **look, **bars)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set(xlabel="before quantisation", ylabel="after quantisation")
    axes.set_title(split, fontweight="bold")


def sign(key: KeyFigure) -> str:
    """The marker of a metric."""
    return SIGNS[KEY_FIGURES.index(key) % len(SIGNS)]


def entries(keys: list[KeyFigure], roles: list[str]) -> list[object]:
    """The legend: what the markers and what the colours mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        *(Line2D([], [], color=INK, marker=sign(key), linestyle="none", label=key.label) for key in keys),
        *(Patch(color=COLOURS[role], label=ROLE_WORDS[role]) for role in roles),
    ]


PLOTS.add("before_after")(
    Plot(
        "Before and after quantisation",
        "Each point is one metric of one quantised model. On the line nothing changed. Under forget, a metric in the "
        "shaded region said too little before quantisation: what it measures was hidden in the weights. Blue points "
        "show what the same quantisation does to the original.",
        4,
        draw,
    )
)
