"""Plot, the registry of plots, and the look that all of them share: one colour for each role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omniq.audit.result import Result, Row, Tested
from omniq.audit.wording import ROLE_WORDS
from omniq.page.figures import INK
from omniq.registry import Registry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which stay apart for every common kind of colour blindness: the original blue, the unlearned
# model red and orange, the quantised of each the lighter of the two.
COLOURS = {"orig_fp": "#0072B2", "orig_q": "#56B4E9", "unl_fp": "#C44601", "unl_q": "#E69F00", "never_fp": "#6A6A6A"}
MARKERS = {"orig_fp": "o", "orig_q": "s", "unl_fp": "^", "unl_q": "D", "never_fp": "X"}
LINES = ("-", "--", ":", "-.")
CHANCE = "#8a2be2"
LONGEST = 30
"""Characters of a model's name beside an axis."""


@dataclass(frozen=True)
class Plot:
    """draw: a figure, or None where the result has no data for it. caption: how to read it. place: in the report."""

    title: str
    caption: str
    place: int
    draw: Callable[[Result], Figure | None]


PLOTS: Registry[Plot] = Registry("plot", "omniq.audit.plots")


@dataclass(frozen=True)
class Look:
    """How a model is drawn in every plot, and what it is called beside an axis."""

    label: str
    colour: str
    marker: str
    line: str
    hatch: str


def looks(models: Sequence[Tested]) -> dict[str, Look]:
    """Model name -> look: the colour tells the role, the kind of line models of one role."""
    found: dict[str, Look] = {}
    for model in models:
        index = sum(one.role == model.role for one in models[: len(found)])
        found[model.name] = Look(
            short(model),
            COLOURS.get(model.role, INK),
            MARKERS.get(model.role, "o"),
            LINES[index % len(LINES)],
            "////" if model.role.endswith("_q") else "",
        )
    return found


def short(model: Tested) -> str:
    """'unlearned · gptq W4A16g64', cut where it would not fit beside an axis."""
    word = ROLE_WORDS.get(model.role, model.role).removesuffix(", quantised")
    said = f"{word} · {model.label}" if model.role.endswith("_q") else word
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def legend(figure: Figure, handles: Sequence[object], columns: int = 4) -> None:
    """One legend for all axes of a figure, below them."""
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), frameon=False)


def handle(look: Look, label: str | None = None, marker: bool = False) -> object:
    """The entry of a model in a legend: its line, or its marker alone."""
    from matplotlib.lines import Line2D

    line = "none" if marker else look.line
    sign = look.marker if marker else None
    return Line2D([], [], color=look.colour, linestyle=line, marker=sign, label=label or look.label)


def chance_handle() -> object:
    """The entry of the chance line in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=CHANCE, linestyle=(0, (2, 2)), linewidth=1.2, label="chance")


def chance_of(rows: Iterable[Row]) -> float | None:
    """The chance that the rows share; None where there is none or models differ in it."""
    found = {row.chance for row in rows}
    return found.pop() if len(found) == 1 else None


def draw_chance(axes: Axes, chance: float | None, horizontal: bool = True) -> bool:
    """A line across the axes at chance; whether there is one."""
    if chance is not None:
        (axes.axhline if horizontal else axes.axvline)(chance, color=CHANCE, linestyle=(0, (2, 2)), linewidth=1.2)
    return chance is not None


def spread(rows: Sequence[Row]) -> list[list[float]]:
    """Rows -> how far their intervals reach below and above their values, [below, above]; none reaches nowhere."""
    below = [max(0.0, row.value - row.ci_lo) if row.ci_lo is not None else 0.0 for row in rows]
    above = [max(0.0, row.ci_hi - row.value) if row.ci_hi is not None else 0.0 for row in rows]
    return [below, above]


def is_share(rows: Iterable[Row]) -> bool:
    """Whether all values lie between 0 and 1, so that an axis can show the whole range."""
    return all(0 <= row.value <= 1 for row in rows)
