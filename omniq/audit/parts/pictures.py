"""The plots with how to read them."""

from __future__ import annotations

from omniq.audit.drawing import Drawing, drawings, lacking
from omniq.audit.parts.markup import Markup, paragraph, section, tag
from omniq.audit.result import Result

PIXELS_PER_INCH = 110
"""At which a figure is shown on a wide screen."""


def pictures(result: Result) -> Markup:
    """Every plot that the result has data for, or why there are none."""
    why = lacking()
    if why:
        return section("plots", "Plots", paragraph(why, "hint"))
    drawn = drawings(result)
    return section("plots", "Plots", *map(picture, drawn)) if drawn else Markup("")


def picture(drawing: Drawing) -> Markup:
    """One plot on a neutral panel, its title above it and its caption below."""
    panel = tag("div", Markup(drawing.svg), class_="panel", style=f"max-width:{drawing.width * PIXELS_PER_INCH:.0f}px")
    parts = [tag("h3", drawing.title), panel, tag("figcaption", drawing.caption)]
    return tag("figure", parts, id=f"plot-{drawing.name}")
