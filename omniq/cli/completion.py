"""What the shell offers after Tab: names read from files without importing what they name, as that would load torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from omniq import recipes

REGISTERED = re.compile(r"""^@?[A-Z]+\.add\((?:"([^"]+)"|([A-Z]+))\)""", re.MULTILINE)
"""`@METHODS.add("gptq")` or `TARGETS.add(NAME)(...)` at the start of a line."""


def registered(*packages: str) -> tuple[str, ...]:
    """The names under which the modules of registries' packages register something, in order."""
    folders = [folder for package in packages for folder in import_module(package).__path__]
    files = [path for folder in folders for path in Path(folder).glob("*.py")]
    return tuple(sorted({name for path in files for name in names_of(path.read_text(encoding="utf-8"))}))


def names_of(source: str) -> list[str]:
    """The names that one module registers, as they stand there or as its own constants."""
    constants = dict(re.findall(r'^([A-Z]+) = "([^"]+)"', source, re.MULTILINE))
    return [name or constants[constant] for name, constant in REGISTERED.findall(source)]


def names_in(*packages: str) -> Callable[[str], list[str]]:
    """What completes the beginning of a name that a module of these packages registers."""

    def completed(incomplete: str) -> list[str]:
        return [name for name in registered(*packages) if name.startswith(incomplete)]

    return completed


def one_of(*words: str) -> Callable[[str], list[str]]:
    """What completes the beginning of one of these words."""

    def completed(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return completed


def recipe_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is for) of the recipes that begin so; for any other beginning the shell offers files."""
    return [(name, recipes.purpose(name)) for name in recipes.names() if name.startswith(incomplete)]
