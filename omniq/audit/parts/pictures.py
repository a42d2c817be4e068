"""The plots with how to read them."""

from __future__ import annotations

from omniq.audit.drawing import drawings
from omniq.audit.result import Result
from omniq.page.figures import lacking, picture
from omniq.page.markup import Markup, paragraph, section


def pictures(result: Result) -> Markup:
    """Every plot that the result has data for, or why there are none."""
    why = lacking()
    if why:
        return section("plots", "Plots", paragraph(why, "hint"))
    found = drawings(result)
    return section("plots", "Plots", *map(picture, found)) if found else Markup("")
