"""Drawings of a result as SVG that can stand inside an HTML page: no addresses, no metadata, no clashing ids."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from omniq.audit.plots.base import INK, PLOTS
from omniq.audit.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS_PER_INCH = 72
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
    """name: in the registry of plots. svg: an <svg> element. width: of the drawing in inches."""

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


def drawings(result: Result) -> list[Drawing]:
    """Every plot for which the result has data, in their order; none where matplotlib is not installed."""
    if lacking():
        return []
    places = {name: plot.place for name, plot in PLOTS.items()}
    made = (drawn(name, result) for name in sorted(places, key=places.__getitem__))
    return [one for one in made if one is not None]


def drawn(name: str, result: Result) -> Drawing | None:
    """One plot by name, None where the result has no data for it; the same whatever matplotlib is set up to do."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": name})
        plot = PLOTS[name]
        figure = plot.draw(result)
        if figure is None:
            return None
        return Drawing(name, plot.title, plot.caption, inline(figure, name, plot.title), figure.get_figwidth())


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
