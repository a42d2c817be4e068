"""Packages: the versions that are installed against those that omniq's own metadata ask for."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from omniq import __version__
from omniq.installation.finding import Finding, note, ok, problem

NAME = "omniq"
NOT_INSTALLED = "not installed"
EXTRAS = {
    "gguf": "reads and writes GGUF files",
    "data": "reads data sets and .parquet files",
    "plot": "draws the plots of reports",
    "triton": "adds kernels for GPUs",
    "lm-eval": "measures tasks with omniq eval --tasks",
}
"""What users may add, and what for."""
AGAIN = "install omniq again: pip install --editable FOLDER, or pip install omniq"


def version(package: str) -> str:
    """The installed version, or that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def required(extra: str = "") -> tuple[Requirement, ...]:
    """What omniq's metadata ask for here: always, or for one extra alone."""
    listed = map(Requirement, metadata.requires(NAME) or ())
    if not extra:
        return tuple(one for one in listed if _holds(one, ""))
    return tuple(one for one in listed if _holds(one, extra) and not _holds(one, ""))


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def python(asked: str | None = None, found: str | None = None) -> Finding:
    """The version of Python. asked: a range; found: a version; None: those of the metadata and of this process."""
    asked = asked or metadata.metadata(NAME)["Requires-Python"]
    found = found or platform.python_version()
    if found in SpecifierSet(asked):
        return ok("python", f"{found} ({asked})")
    return problem("python", f"{found}, and omniq needs {asked}", "make an environment with a later Python")


def dependency(requirement: Requirement, found: str) -> Finding:
    """One package that omniq cannot do without; found: its version here."""
    name, asked = requirement.name, str(requirement.specifier)
    fix = f"pip install '{name}{asked}'"
    if found == NOT_INSTALLED:
        return problem(name, "not installed", fix)
    if not requirement.specifier.contains(found, prereleases=True):
        return problem(name, f"{found}, and omniq needs {asked}", fix)
    return ok(name, f"{found} ({asked})")


def extra(name: str, requirements: Sequence[Requirement], found: Mapping[str, str]) -> Finding:
    """One extra. found: version by package."""
    title, purpose, fix = f"extra {name}", EXTRAS[name], f"pip install 'omniq[{name}]'"
    lacking = [one.name for one in requirements if found[one.name] == NOT_INSTALLED]
    if lacking:
        return note(title, f"{', '.join(lacking)} not installed: it {purpose}", fix)
    states = [dependency(one, found[one.name]) for one in requirements]
    wrong = [f"{one.name} {one.said}" for one in states if one.fix]
    if wrong:
        return problem(title, "; ".join(wrong), fix)
    return ok(title, ", ".join(f"{one.name} {one.said}" for one in states))


def packages() -> Iterator[Finding]:
    """Python, what omniq needs, and what may be added."""
    yield python()
    for requirement in required():
        yield dependency(requirement, version(requirement.name))
    for name in EXTRAS:
        requirements = required(name)
        if requirements:
            yield extra(name, requirements, {one.name: version(one.name) for one in requirements})


def own(recorded: str, imported: str) -> Finding:
    """omniq itself. recorded: the version it was installed as; imported: the version of its code."""
    if recorded == NOT_INSTALLED:
        return problem(NAME, "runs from a folder without being installed", AGAIN)
    if recorded != imported:
        return problem(NAME, f"installed as {recorded}, while its code is {imported}", AGAIN)
    return ok(NAME, imported)


def parts(package: str = NAME) -> Finding:
    """Whether the folders that installing puts below the package are there."""
    lacking = [one for one in ("kernels", "calibrate") if util.find_spec(f"{package}.{one}") is None]
    place = Path(importlib.import_module(package).__file__ or "").parent
    if lacking:
        said = f"{place} has no {' and no '.join(lacking)} inside: Python took a folder of sources for the package"
        return problem("its parts", said, "run omniq from another folder")
    return ok("its parts", f"complete, in {place}")


def itself() -> Iterator[Finding]:
    """omniq, and its parts."""
    yield own(version(NAME), __version__)
    yield parts()


def broken(package: str) -> str | None:
    """Why a package that is installed cannot be imported, or None."""
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
        return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
    return None
