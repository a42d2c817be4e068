"""Exit codes: every kind of error has one of its own, and the guide and the help name them all."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from omniq.cli import exits
from omniq.errors import OmniqError

ROOT = Path(__file__).resolve().parents[1]


def kinds(of: type[OmniqError] = OmniqError) -> list[type[OmniqError]]:
    """A class of errors and all below it."""
    return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]


def test_every_kind_of_error_has_a_code_of_its_own_that_is_listed() -> None:
    codes = Counter(kind.exit_code for kind in kinds())
    assert set(codes.values()) == {1}
    assert set(codes) <= set(exits.EXITS)


def test_errors_are_defined_in_one_file() -> None:
    assert {kind.__module__ for kind in kinds()} == {"omniq.errors"}


def test_every_code_that_is_no_error_s_has_a_name() -> None:
    named = {0, exits.OUT_OF_MEMORY, exits.FOUND, exits.INTERRUPTED, exits.TERMINATED}
    assert set(exits.EXITS) == named | {kind.exit_code for kind in kinds()}
    assert (exits.INTERRUPTED, exits.TERMINATED) == (128 + 2, 128 + 15)


def test_the_guide_lists_every_code_with_its_meaning() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert {int(code): words for code, words in rows} == exits.EXITS


def test_the_help_ends_with_every_code(omniq) -> None:
    text = " ".join(omniq("--help")[1].split())
    assert exits.in_one_line() in text


@pytest.mark.parametrize("path", sorted((ROOT / "omniq" / "cli").rglob("*.py")), ids=lambda path: path.stem)
def test_no_command_ends_with_a_number_that_is_only_its_own(path: Path) -> None:
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    ends = [call for call in calls if ast.unparse(call.func) in ("sys.exit", "os._exit", "typer.Exit", "SystemExit")]
    assert [ast.unparse(call) for call in ends if any(isinstance(arg, ast.Constant) for arg in call.args)] == []
