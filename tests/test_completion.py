"""The shell's completion: it is on, knows every name of the registries, and needs nothing heavy for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omniq import recipes
from omniq.audit.base import EVALUATORS
from omniq.calibrate.method import METHODS
from omniq.cli.completion import names_in, one_of, recipe_names, registered
from omniq.cli.list import Kind
from omniq.formats.base import FORMATS
from omniq.kernels.dispatch import KERNELS
from omniq.knowledge.source import SOURCES
from omniq.models.adapter import ADAPTERS
from omniq.registry import Registry
from omniq.unlearn.method import UNLEARNERS

REGISTRIES = (METHODS, FORMATS, ADAPTERS, SOURCES, UNLEARNERS, EVALUATORS)
LIMIT = 0.5
"""Seconds of the processor that an answer to Tab may take."""


def offered(tmp_path: Path, line: str, prefix: str = "") -> list[str]:
    """What bash is offered after `line`, asked as its completion script asks. prefix: code to run before."""
    code = f"{prefix}from omniq.cli.app import main; main([])"
    words = {"_OMNIQ_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **words}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_names_read_from_the_text_are_those_that_the_modules_register(registry: Registry) -> None:
    assert registered(registry.package) == tuple(registry)


def test_a_kernel_that_cannot_be_imported_here_is_known_by_name_too() -> None:
    assert set(KERNELS) <= set(registered(KERNELS.package))


def test_only_names_that_begin_so_are_offered() -> None:
    assert names_in("omniq.calibrate.methods")("om") == ["omniquant"]
    assert names_in("omniq.calibrate.methods")("zebra") == []
    assert one_of("exact", "int8")("i") == ["int8"]
    assert [name for name, _ in recipe_names("w4-")] == ["w4-best", "w4-fast", "w4-rtn"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("omniq quantize MODEL --preset ", sorted(METHODS)),
        ("omniq quantize MODEL --format ", sorted(FORMATS)),
        ("omniq quantize MODEL --config ", list(recipes.names())),
        ("omniq audit --recipe w3", ["w3"]),
        ("omniq list ", [kind.value for kind in Kind]),
    ],
)
def test_the_shell_is_offered_the_registries_names(line: str, names: list[str], tmp_path: Path) -> None:
    assert offered(tmp_path, line) == names


def test_completion_loads_nothing_heavy_and_answers_at_once(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'yaml'}"
    watch = f"import atexit, sys; atexit.register(lambda: print(sorted({heavy} & set(sys.modules)))); "
    assert offered(tmp_path, "omniq quantize MODEL --preset o", watch) == ["omniquant", "[]"]

    def processor_seconds() -> float:
        start = os.times()
        offered(tmp_path, "omniq quantize MODEL --preset ")
        end = os.times()
        return end.children_user + end.children_system - start.children_user - start.children_system

    assert min(processor_seconds() for _ in range(3)) < LIMIT


def test_the_script_for_bash_is_printed_for_whoever_installs_it_by_hand(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from omniq.cli.app import main; main(['--show-completion', 'bash'])"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "complete -o default -F _omniq_completion omniq" in done.stdout
