"""SHA256SUMS: what the weight files of a finished checkpoint hash to, as `sha256sum --check` reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from omniq.errors import ModelError, VerificationError
from omniq.shards import write_text

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")
LONGEST = 1 << 20
"""Bytes of the file at most: more than ten thousand shards."""
PART = 1 << 20
"""Bytes that are read at a time."""


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Writes the sums of `files`, all inside `folder`, in one step."""
    write_text(folder / SUMS, "".join(f"{_sum(path)}  {path.name}\n" for path in files))


def check_sums(folder: Path) -> tuple[str, ...]:
    """Names of the files that are as they were written; VerificationError names those that are not."""
    found = {name: _found(folder / name, wanted) for name, wanted in _sums(folder / SUMS).items()}
    if wrong := [f"{name} ({state})" for name, state in found.items() if state]:
        raise VerificationError(
            f"{folder} is not as it was written: {', '.join(wrong)}; copy or download the checkpoint again"
        )
    return tuple(found)


def _found(path: Path, wanted: str) -> str:
    """What is wrong with a file; nothing where it hashes as wanted."""
    try:
        return "" if _sum(path) == wanted else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(PART):
            digest.update(part)
    return digest.hexdigest()


def _sums(path: Path) -> dict[str, str]:
    """The sum of every file by its name."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST).decode("utf-8")
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} holds no {SUMS}, so nothing says what was written; omniq quantize and omniq export write it"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path} is no text; copy or download the checkpoint again") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = LINE.fullmatch(line)
        if match is None:
            raise ModelError(
                f"line {number} of {path} is {line[:80]!r}; every line must be a SHA-256 sum, two blanks and a name"
            )
        found[match[2]] = match[1]
    if not found:
        raise ModelError(f"{path} is empty; copy or download the checkpoint again")
    return found
