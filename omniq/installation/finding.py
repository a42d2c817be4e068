"""Finding: what one check of the installation found, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """state: ok, note (works, and could be better) or problem. said: what was found. fix: what to do, unless ok."""

    name: str
    state: str
    said: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Plain values for JSON."""
        return asdict(self)


def ok(name: str, said: str) -> Finding:
    """All is well."""
    return Finding(name, OK, said)


def note(name: str, said: str, fix: str) -> Finding:
    """It works, and could be better."""
    return Finding(name, NOTE, said, fix)


def problem(name: str, said: str, fix: str) -> Finding:
    """It does not work, or not as it should."""
    return Finding(name, PROBLEM, said, fix)
