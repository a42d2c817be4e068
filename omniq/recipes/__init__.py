"""The recipes that come with omniq: a YAML file each, `omniq quantize --config NAME`. The first line says what for."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SUFFIX = ".yaml"


def names() -> tuple[str, ...]:
    """The names of the recipes, in order."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def file_of(name: str) -> Path | None:
    """The file of the recipe `name`, None where there is none of that name."""
    return FOLDER / f"{name}{SUFFIX}" if name in names() else None


def purpose(name: str) -> str:
    """What the recipe is for: its file's first line, a comment."""
    with (FOLDER / f"{name}{SUFFIX}").open(encoding="utf-8") as lines:
        return next(lines).lstrip("# ").strip()
