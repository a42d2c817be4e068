"""Rows of local JSON, JSON lines and parquet files, checked cell by cell: an error names file, row, column and fix."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniq.errors import DataError
from omniq.text import ROWS, first_line

SUFFIXES = (".json", ".jsonl", ".parquet")
LARGEST = 256 * 2**20
"""Bytes. The largest of the known question sets has a few megabytes; more is a wrong file."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
KINDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """place: file and row, in words. values: by column; a column whose value is null counts as absent."""

    place: str
    values: Mapping[str, Any]

    def __contains__(self, column: str) -> bool:
        return self.values.get(column) is not None

    def columns(self) -> str:
        """The names of the columns, for an error."""
        return ", ".join(map(repr, self.values)) or "none"

    def text(self, column: str) -> str:
        """The text of a column that must be there and not be blank."""
        if column not in self:
            raise DataError(
                f"{self.place} has no column {column!r}; it has {self.columns()}. Give every row a {column!r}"
            )
        return _text(self.values[column], f"{self.place}, column {column!r}")

    def optional_text(self, column: str) -> str:
        """The text of a column, '' where it is absent or empty."""
        return self.text(column) if column in self and self.values[column] != "" else ""

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of a column that holds a list of them, () where it is absent."""
        if column not in self:
            return ()
        value, place = self.values[column], f"{self.place}, column {column!r}"
        if not isinstance(value, list):
            raise DataError(f'{place} holds {kind(value)}; write a list of texts, such as ["...", "..."]')
        return tuple(_text(entry, f"{place}, entry {number}") for number, entry in enumerate(value, 1))

    def integer(self, column: str, count: int) -> int:
        """A whole number from 0 to count - 1, of a column that must be there."""
        value, place = self.values.get(column), f"{self.place}, column {column!r}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"{place} holds {kind(value)}; write a whole number, counted from 0")
        if not 0 <= value < count:
            raise DataError(f"{place} is {value}, but there are {count} choices; it counts from 0 to {count - 1}")
        return value


def kind(value: Any) -> str:
    """What a value is, in words."""
    return "nothing" if value is None else KINDS.get(type(value), type(value).__name__)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} holds {kind(value)}; write a text, in quotes")
    if not value.strip():
        raise DataError(f"{place} is blank; write a text, or leave the row out")
    if LONE_SURROGATE.search(value):
        raise DataError(f"{place} holds half of a surrogate pair, which is no character; write the file as UTF-8")
    return value


def rows(path: Path, bare: str = "") -> list[Row]:
    """The rows of a file, at least one. bare: the column that a row which is only a text stands for, if any."""
    size = _size(path)
    if size > LARGEST:
        raise DataError(f"{path} has {size / 2**20:.0f} MB, more than {LARGEST // 2**20}; give a file of questions")
    found = _parquet(path) if path.suffix == ".parquet" else _json(path)
    if not found:
        raise DataError(f"{path} holds no row; give a file with at least one")
    return [_row(place, value, bare) for place, value in found]


def _size(path: Path) -> int:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one file that ends in {_endings()}")
    if not path.is_file():
        raise DataError(f"there is no file {path}; data is read from local files, so download it first")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix or 'no suffix'!r}; questions are read from files in {_endings()}")
    return path.stat().st_size


def _endings() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _row(place: str, value: Any, bare: str) -> Row:
    if bare and isinstance(value, str):
        value = {bare: value}
    if not isinstance(value, dict):
        raise DataError(f"{place} is {kind(value)}; each row must be an object with named columns")
    return Row(place, value)


def _json(path: Path) -> list[tuple[str, Any]]:
    """(place, value) of a file that is one JSON list, or has one JSON value a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if text.lstrip().startswith("["):
        return [(f"{path}, row {i}", value) for i, value in enumerate(_parsed(text, str(path), "one JSON list"), 1)]
    lines = enumerate(text.split("\n"), 1)
    return [
        (f"{path}, line {number}", _parsed(line, f"{path}, line {number}", "one JSON object a line, or one JSON list"))
        for number, line in lines
        if line.strip()
    ]


def _parsed(text: str, place: str, wanted: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists without end
        where = str(error)
    raise DataError(f"{place} is not JSON ({where}); the file must be {wanted}")


def _parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError(
            f"reading {path} needs the package pyarrow; install it, or save the rows as JSON lines"
        ) from None
    try:
        values, size = [], 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=ROWS):
            size += batch.nbytes
            if size > LARGEST:
                raise DataError(f"{path} unpacks to more than {LARGEST // 2**20} MB; give a file of questions")
            values += batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a readable parquet file: {first_line(error)}") from None
    return [(f"{path}, row {number}", value) for number, value in enumerate(values, 1)]


def folder(text: str, holds: str) -> Path:
    """The folder of that name; `holds` says in an error what is expected in it."""
    path = Path(text).expanduser()
    if path.is_file():
        raise DataError(f"{path} is a file; give the folder with {holds}")
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; give a local folder with {holds}, downloaded beforehand")
    return path


def table(place: Path, *names: str) -> Path | None:
    """The first file of the folder with one of these names, whatever its suffix; parquet also as the hub splits it."""
    for name in names:
        for suffix in SUFFIXES:
            if (path := place / (name + suffix)).is_file():
                return path
        if (path := place / f"{name}-00000-of-00001.parquet").is_file():
            return path
    return None


def contents(place: Path) -> str:
    """What a folder holds, for an error."""
    names: Sequence[str] = sorted(path.name for path in place.iterdir())
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
