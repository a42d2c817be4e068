"""What an audit found, on disk: rows as CSV, results as JSON, measurements to go on from; never NaN, never a part."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from omniq.audit.base import Found, Measurement, Metric, Missing
from omniq.audit.result import Absent, ItemValue, Result, Row, Tested, Verdict
from omniq.errors import DataError
from omniq.shards import write_text

T = TypeVar("T")

SCHEMA = 1
TABLES = {"models": Tested, "rows": Row, "absent": Absent, "items": ItemValue, "verdicts": Verdict}
"""The parts of a Result that are tables: columns once, then a list of values for every record."""


def write_csv(records: Sequence[Any], path: Path, kind: type = Row) -> None:
    """Writes dataclass values of one kind as CSV with a header; None is an empty cell, numbers keep every digit."""
    names, text = [f.name for f in fields(kind)], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if (value := getattr(one, name)) is None else value for name in names] for one in records)
    write_text(path, text.getvalue())


def write_result(result: Result, path: Path) -> None:
    """Writes a result as JSON; read_result gives an equal one back."""
    write_text(path, json.dumps(result_to_dict(result), ensure_ascii=False, allow_nan=False) + "\n")


def read_result(path: Path) -> Result:
    """The result in a file that write_result wrote; anything else is a DataError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give the result file of an audit") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is not JSON; give the result file of an audit") from None
    return result_from_dict(values, str(path))


def result_to_dict(result: Result) -> dict[str, Any]:
    """Plain values; a number that is not finite is null."""
    found: dict[str, Any] = {"schema": SCHEMA, "run_id": result.run_id}
    for name, kind in TABLES.items():
        columns = [f.name for f in fields(kind)]
        rows = [[plain(getattr(one, column)) for column in columns] for one in getattr(result, name)]
        found[name] = {"columns": columns, "rows": rows}
    return found | {name: plain(getattr(result, name)) for name in ("questions", "facts", "notes")}


def result_from_dict(values: Any, place: str = "result") -> Result:
    """The inverse of result_to_dict; DataError names `place` where the values are not those of a result."""
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        raise DataError(f"{place} is not the result of an audit by this version; run the audit again")
    try:
        tables = {name: tuple(records(values[name], kind)) for name, kind in TABLES.items()}
        return Result(
            run_id=values["run_id"],
            questions=values["questions"],
            facts=values["facts"],
            notes=tuple(values["notes"]),
            **tables,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place} is damaged ({error}); run the audit again") from None


def records(table: Mapping[str, Any], kind: type[T]) -> list[T]:
    """Columns and rows -> dataclass values; lists become the tuples they were."""
    columns = table["columns"]
    return [
        kind(**{name: frozen(value) for name, value in zip(columns, row, strict=True)}) for row in table["rows"]
    ]  # fmt: skip


def frozen(value: Any) -> Any:
    """A list as a tuple, anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The same in values that JSON has: numbers that are not finite become None, what is no number or list, text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    return str(value)


def found_to_dict(found: Found) -> dict[str, Any]:
    """Measurements and reasons as plain values, every digit kept; found_from_dict gives equal ones back."""
    return {"schema": SCHEMA, "found": [_missing(one) if isinstance(one, Missing) else _measured(one) for one in found]}


def _missing(one: Missing) -> dict[str, Any]:
    return {"metric": one.metric, "split": one.split, "reason": one.reason}


def _measured(one: Measurement) -> dict[str, Any]:
    """Everything of a Measurement; a value that is not finite is a fault of the evaluator."""
    for name, values in (("value", one.values), ("reference value", one.reference)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{one.metric.name} on {one.split}: a {name} is not finite")
    plainly = {f.name: plain(getattr(one, f.name)) for f in fields(one) if f.name != "metric"}
    return {**plainly, "metric": asdict(one.metric)}


def found_from_dict(values: Any) -> Found | None:
    """The inverse of found_to_dict; None where the values are of another version or damaged: then measure again."""
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        return None
    try:
        return [Missing(**one) if "reason" in one else _measurement(one) for one in values["found"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _measurement(values: Mapping[str, Any]) -> Measurement:
    """A Measurement whose parts fit together, or a ValueError."""
    arrays = {name: _numbers(values[name]) for name in ("values", "reference") if values[name] is not None}
    texts = {name: tuple(values[name]) for name in ("items", "texts")}
    one = Measurement(**{**values, **arrays, **texts, "metric": Metric(**values["metric"])})
    if len(one.items) != len(one.values) or len(one.texts) not in (0, len(one.items)):
        raise ValueError("items, values and texts are not equally many")
    return one


def _numbers(values: Any) -> np.ndarray:
    """A list of finite numbers as an array (n,)."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("a list of finite numbers is expected")
    return array
