"""Results on standard output: tables for people, one JSON object for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output; a number that is not finite becomes null, as JSON has none."""
    print(json.dumps(plain(values), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """The value with only what JSON knows in it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def print_pairs(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    """A table of two columns: what, and how much; a name that comes again is written once."""
    rows, last = [], ""
    for name, value in pairs:
        rows.append(("" if name == last else name, value))
        last = name
    print_table(title, (), rows)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with a title; without columns it has no header."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=bool(columns))
    for index in range(len(rows[0]) if rows else len(columns)):
        table.add_column(columns[index] if columns else "", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    console.print(table if rows else f"[bold]{escape(title)}[/bold]: none")


def flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """A nested mapping as pairs of a dotted name and a text, a list as one pair per item."""
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, name)
        elif isinstance(value, (list, tuple)):
            yield from ((name, text(item)) for item in value or (None,))
        else:
            yield name, text(value)


def text(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
