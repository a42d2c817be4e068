"""The checks of `omniq doctor`, in the order in which one can hide the next."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from omniq.installation.finding import PROBLEM, Finding, problem
from omniq.installation.packages import broken, itself, packages

FOUNDATIONS = ("torch", "transformers")
"""What must be imported before anything else can be checked."""
BEYOND = ("omniq.installation.kernels", "kernels"), ("omniq.installation.machine", "machine")
"""(module, its function): the checks that need the foundations."""


def findings() -> Iterator[Finding]:
    """What every check finds, one after another; those that a broken package hides are left out, which is said."""
    hidden = False
    for finding in (*itself(), *packages()):
        hidden |= finding.state == PROBLEM and finding.name in (*FOUNDATIONS, "its parts")
        yield finding
    for package in () if hidden else FOUNDATIONS:
        if reason := broken(package):
            yield problem(f"import {package}", reason, f"pip install --force-reinstall {package}, in a new environment")
            hidden = True
    if hidden:
        yield problem("further checks", "left out, as they need what is broken above", "mend that and run it again")
        return
    for module, function in BEYOND:
        yield from getattr(importlib.import_module(module), function)()
