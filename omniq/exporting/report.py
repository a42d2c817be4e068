"""What an export is going to do, and what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ExportPlan:
    """What `omniq export --dry-run` prints; only headers have been read.

    origin: the layout that is read; target: the one that is written. schemes: how many linears by scheme. Sizes and
    memory are bytes; work_bytes: disk used meanwhile, the result included. loaders: the runtimes that will load the
    result, one sentence each.
    """

    checkpoint: str
    origin: str
    target: str
    schemes: dict[str, int]
    tables: str | None
    size_before: int
    size_after: int
    peak_memory: int
    work_bytes: int
    loaders: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ExportReport:
    """What one export wrote; the fields are those of ExportPlan. seconds: it took. verified: it was read back."""

    out: str
    origin: str
    target: str
    schemes: dict[str, int]
    tables: str | None
    size_before: int
    size_after: int
    seconds: float
    peak_memory: int
    verified: bool
    loaders: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
