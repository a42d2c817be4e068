"""How to load and serve it: what each runtime says of this checkpoint, and what to type."""

from __future__ import annotations

from omniq.howto.loading import loads, runtime_of, snippets
from omniq.page.markup import Markup, section, table, tag
from omniq.reporting.record import Record


def loading(record: Record) -> Markup:
    """A line for each runtime, and the exact commands of those that load it."""
    rows = [(runtime_of(one), badge(one), one) for one in record.loaders]
    parts: list[Markup] = [table(("Runtime", "Loads it", ""), rows, "texts loaders")]
    named: set[str] = set()
    for snippet in snippets(record.loaders):
        if snippet.runtime not in named:
            parts.append(tag("h3", snippet.runtime))
        named.add(snippet.runtime)
        parts.append(tag("pre", snippet.code))
    return section("load", "Load and serve it", *parts)


def badge(sentence: str) -> Markup:
    """Whether a runtime loads it."""
    return tag("span", "yes" if loads(sentence) else "no", class_=f"badge {'good' if loads(sentence) else 'quiet'}")
