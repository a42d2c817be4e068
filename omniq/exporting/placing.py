"""Where an export goes: checked before anything is read, and there only once it is whole."""

from __future__ import annotations

import os
from pathlib import Path

from omniq.errors import OutputError, UsageError
from omniq.exporting.base import Target
from omniq.work import Work, check_apart, check_free, tidy


def check_place(out: Path, target: Target, source: Path, overwrite: bool) -> None:
    """Raises OutputError, or UsageError for a file with the wrong ending, where the output cannot go to `out`."""
    if target.suffix is None:
        check_free(out, overwrite)
        check_apart(out, source)
        return
    if out.is_dir():
        raise OutputError(f"the output {out} is a folder; this format is one file, so name it *{target.suffix}")
    if out.suffix != target.suffix:
        raise UsageError(f"the output is {out.name!r}; this format is one file, so name it *{target.suffix}")
    if out.exists() and not overwrite:
        tidy(out)
        raise OutputError(f"the output {out} exists; choose another or give --overwrite")


def fresh_place(work: Work, target: Target) -> Path:
    """The temporary place to write to: an empty folder, or a file's path with nothing there."""
    if (work.folder / "run.json").is_file():
        raise OutputError(
            f"{work.folder} holds an unfinished quantisation to {work.out}; finish it, remove it, or choose "
            "another output"
        )
    work.clear()
    return work.result() if target.suffix is None else work.folder / f"result{target.suffix}"


def publish(work: Work, result: Path, target: Target, overwrite: bool) -> None:
    """Moves the finished output to its final name in one step."""
    if target.suffix is None:
        return work.publish(result, overwrite)
    try:
        with result.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(result, work.out)
    except OSError as error:
        raise OutputError(f"cannot move the finished file to {work.out}: {error.strerror}") from None
