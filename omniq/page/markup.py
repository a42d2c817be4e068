"""Markup: text that is HTML already; anything else is escaped where it is put into an element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

EMPTY = ("col", "meta")
"""Elements without content and without an end tag."""


class Markup(str):
    """HTML that may stand in a page as it is."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[str]"


def safe(content: Content) -> Markup:
    """Markup as it is, text escaped, several of either one after the other."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(visible(content), quote=True))
    return Markup("".join(safe(part) for part in content))


def visible(text: str) -> str:
    """The text with every control character but tab and line feed replaced, since HTML allows none of them."""
    return "".join("\ufffd" if (ord(c) < 32 and c not in "\t\n") or 0xD800 <= ord(c) < 0xE000 else c for c in text)


def tag(name: str, content: Content = "", /, **attributes: str | None) -> Markup:
    """An element; 'class_' stands for class and '_' for '-'; an attribute that is None is left out."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = "".join([name, *(f' {key}="{safe(value)}"' for key, value in given)])
    return Markup(f"<{opening}>" if name in EMPTY else f"<{opening}>{safe(content)}</{name}>")


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], kind: str = "", caption: str = "") -> Markup:
    """A table that scrolls sideways where it is too wide; the first cell of a row is its heading.

    A cell that is an element <td> or <th> already is taken as it is.
    """
    lines = [tag("tr", [cell(content, "th" if index == 0 else "td") for index, content in enumerate(row)])
             for row in rows]  # fmt: skip
    header = tag("thead", tag("tr", [tag("th", content, scope="col") for content in head]))
    said = tag("caption", caption) if caption else ""
    return tag("div", tag("table", [said, header, tag("tbody", lines)], class_=kind or None), class_="wide")


def cell(content: Content, name: str) -> Markup:
    """A table cell around the content, unless it is one."""
    if isinstance(content, Markup) and content.startswith(("<td", "<th")):
        return content
    return tag(name, content, scope="row" if name == "th" else None)


def section(key: str, title: str, *content: Content) -> Markup:
    """A part of the page that can be linked to."""
    return tag("section", [tag("h2", title), *content], id=key)


def paragraph(text: Content, kind: str | None = None) -> Markup:
    """A paragraph."""
    return tag("p", text, class_=kind)


def listed(entries: Iterable[Content], kind: str | None = None) -> Markup:
    """An unordered list."""
    return tag("ul", [tag("li", entry) for entry in entries], class_=kind)


def details(summary: Content, *content: Content) -> Markup:
    """A part that is folded away until it is wanted."""
    return tag("details", [tag("summary", summary), *content])


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as pairs of a name and a text."""
    for key, value in values.items():
        name = f"{above}: {key}" if above else str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, name)
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(map(str, value))
        else:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
