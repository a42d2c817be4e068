"""Settings of a run as they were kept: read, and in what others differ from them, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept_values(path: Path) -> dict[str, Any] | None:
    """The values of a JSON file, or None when it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sentences naming every value that differs between two nested mappings."""
    found, wanted = [], json.loads(json.dumps(wanted, default=str))
    for key in sorted(set(known) | set(wanted)):
        a, b = known.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, now {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
