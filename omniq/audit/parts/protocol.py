"""How it was measured: settings, versions and notes."""

from __future__ import annotations

from omniq.audit.result import Result
from omniq.page.markup import Markup, flat, listed, section, table


def protocol(result: Result) -> Markup:
    """The facts of an audit as a table of two columns."""
    rows = [("audit", result.run_id), *flat(result.facts)]
    return section("protocol", "How it was measured", table(("Setting", "Value"), rows, "pairs"))


def notes(result: Result) -> Markup:
    """What a reader of the results should know."""
    return section("notes", "Notes", listed(result.notes)) if result.notes else Markup("")
