"""The texts of benchmarks/quality.py: to calibrate on and to evaluate on, of two kinds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def as_text(file: Path, folder: Path) -> Path:
    """A text file: `file` itself, or for JSON with questions and answers, one of them written as prose into `folder`.

    Two questions and answers about the same matter make a paragraph's worth of plain English, of a kind that an
    encyclopaedia does not have.
    """
    if file.suffix != ".json":
        return file
    rows = json.loads(file.read_text(encoding="utf-8"))
    out = folder / f"{file.stem}.txt"
    out.write_text("\n\n".join(f"{row['question']} {row['answer']}" for row in rows) + "\n", encoding="utf-8")
    return out


def fingerprint(text: Path) -> str:
    """'forget10 1f2e3d4c5b6a': which text it is, and the beginning of its SHA-256."""
    return f"{text.stem} {hashlib.sha256(text.read_bytes()).hexdigest()[:12]}"
