"""document: a whole HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable

from omniq.page.markup import Markup, listed, tag

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A browser that heeds it loads nothing and runs nothing, whatever the page should hold."""


def document(title: str, body: Iterable[str], css: str) -> str:
    """The text of a page with this title, body and style sheet; for phones too, and light or dark as the reader is."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(css)),
    ]
    page = tag("html", [tag("head", head), tag("body", body)], lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def contents(parts: Iterable[tuple[str, str]]) -> Markup:
    """Links to parts of the page. parts: (id, name) of each."""
    return tag("nav", listed(tag("a", name, href=f"#{key}") for key, name in parts))
