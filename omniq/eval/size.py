"""Bytes on disk and bits per weight."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omniq.errors import ModelError


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of all safetensors files of a checkpoint folder."""
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; give the folder of a checkpoint")
    return sum(file.stat().st_size for file in files)


def bits_per_weight(linears: Iterable[tuple[float, int]]) -> float:
    """(stored bits per weight, number of weights) of each linear -> the mean over all weights; 0.0 for none."""
    pairs = list(linears)
    weights = sum(n for _, n in pairs)
    return sum(bits * n for bits, n in pairs) / weights if weights else 0.0


def human_bytes(count: int) -> str:
    """1536 -> '1.5 KB': 1024 to the step, for people."""
    size, units = float(count), ("B", "KB", "MB", "GB", "TB")
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
