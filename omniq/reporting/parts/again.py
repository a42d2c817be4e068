"""How to make it again: the command, the whole recipe, versions and the data."""

from __future__ import annotations

from omniq.page.markup import Markup, details, flat, section, table, tag
from omniq.reporting.record import Record


def again(record: Record) -> Markup:
    """The exact command, and everything that decides the result."""
    facts = {
        "original": record.base,
        "parameters": f"{record.parameters:,}",
        "made on": record.date,
        **{f"version of {name}": version for name, version in record.versions.items()},
        "device": record.device,
        "threads": record.threads,
        "calibration data": record.data or "none",
        "fingerprint of its tokens": record.data_fingerprint or "none",
    }
    rows = list(flat({**facts, **({"embedding table": record.tables} if record.tables else {})}))
    recipe = details("The whole recipe", table(("Setting", "Value"), flat(record.recipe), "pairs"))
    return section(
        "again", "Make it again", tag("pre", record.command), table(("Fact", "Value"), rows, "pairs"), recipe
    )
