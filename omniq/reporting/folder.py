"""The files of a report: report.json, the record of a run, and report.html, the page made from it."""

from __future__ import annotations

import json
from pathlib import Path

from omniq.errors import ModelError
from omniq.header import json_object
from omniq.reporting.page import html
from omniq.reporting.record import Record, record_from
from omniq.shards import write_text

RECORD, PAGE = "report.json", "report.html"


def write_report(record: Record, folder: Path) -> Path:
    """Writes report.json and report.html into the folder; the path of the page."""
    write_text(folder / RECORD, json.dumps(record.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(folder / PAGE, html(record))
    return folder / PAGE


def has_record(folder: Path) -> bool:
    """Whether a folder holds the record of a run."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> Record:
    """The record in a folder; ModelError where there is none, or it is damaged."""
    path = folder / RECORD
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no {RECORD}, so there is nothing to make a report of; give a folder that omniq quantize "
            "wrote (folders of earlier versions have none)"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return record_from(json_object(raw, path), str(path))
