"""How it was measured: settings, versions and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omniq.audit.parts.markup import Markup, listed, section, table
from omniq.audit.result import Result


def protocol(result: Result) -> Markup:
    """The facts of an audit as a table of two columns."""
    rows = [("audit", result.run_id), *flat(result.facts)]
    return section("protocol", "How it was measured", table(("Setting", "Value"), rows, "pairs"))


def notes(result: Result) -> Markup:
    """What a reader of the results should know."""
    return section("notes", "Notes", listed(result.notes)) if result.notes else Markup("")


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
