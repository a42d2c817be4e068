"""The files of a finished audit: the page, the tables and everything for programs."""

from __future__ import annotations

from pathlib import Path

from omniq.audit.page import html
from omniq.audit.result import ItemValue, Result
from omniq.audit.store import write_csv, write_result
from omniq.shards import write_text

PAGE, ROWS, ITEMS, EVERYTHING = "report.html", "rows.csv", "items.csv", "audit.json"


def written(result: Result, out: Path) -> list[Path]:
    """Writes the page, the rows, the values of every item and the whole result into `out`; the files' paths."""
    write_result(result, out / EVERYTHING)
    write_csv(result.rows, out / ROWS)
    write_csv(result.items, out / ITEMS, ItemValue)
    write_text(out / PAGE, html(result))
    return [out / name for name in (PAGE, ROWS, ITEMS, EVERYTHING)]
