"""Figures as SVG that can stand inside an HTML page: no addresses, no metadata, no clashing ids."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from omniq.page.markup import Markup, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#2b2b2b", "#b9b9b3"
WIDTH = 10.0
"""Inches of a plot as wide as the page."""

PIXELS_PER_INCH = 110
"""At which a figure is shown on a wide screen."""

POINTER = re.compile(r"url\(#")
SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": "medium",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.7,
    "legend.fontsize": "small",
}


@dataclass(frozen=True)
class Drawing:
    """name: of the figure, unlike that of any other on the page. svg: an <svg> element. width: in inches."""

    name: str
    title: str
    caption: str
    svg: str
    width: float


def lacking() -> str | None:
    """Why there can be no plots, or None."""
    if find_spec("matplotlib") is None:
        return "The plots are left out: they need the package matplotlib; install it with pip install 'omniq[plot]'."
    return None


def drawn(name: str, title: str, caption: str, draw: Callable[[], Figure | None]) -> Drawing | None:
    """What `draw` draws, None where it draws nothing; the same whatever matplotlib is set up to do."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": name})
        figure = draw()
        return (
            None
            if figure is None
            else Drawing(name, title, caption, inline(figure, name, title), figure.get_figwidth())
        )


def panels(rows: int, columns: int, width: float, height: float, **more: object) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns axes with a quiet look. width, height: inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **more)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
    return figure, [list(line) for line in grid]


def picture(drawing: Drawing) -> Markup:
    """One plot on a neutral panel, its title above it and its caption below."""
    panel = tag("div", Markup(drawing.svg), class_="panel", style=f"max-width:{drawing.width * PIXELS_PER_INCH:.0f}px")
    parts = [tag("h3", drawing.title), panel, tag("figcaption", drawing.caption)]
    return tag("figure", parts, id=f"plot-{drawing.name}")


def inline(figure: Figure, name: str, title: str) -> str:
    """An SVG element whose ids begin with `name`, the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = plain(element.tag)
        element.attrib = {plain(key): renamed(plain(key), value, name) for key, value in element.attrib.items()}
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": title, "class": "plot"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def plain(name: str) -> str:
    """A tag or an attribute without its namespace, which inside HTML is understood."""
    return name.rpartition("}")[2]


def renamed(key: str, value: str, name: str) -> str:
    """The value of an attribute with every id that it sets or points to put under `name`."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    return POINTER.sub(f"url(#{name}-", value)
