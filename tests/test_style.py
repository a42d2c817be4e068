"""The rules of CONTRIBUTING.md that a linter does not know, read from the syntax tree of every library file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = [path for folder in ("omniq", "kernels", "calibrate") for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Rule = Callable[[ast.Module], Iterator[tuple[int, str]]]


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of every function of more than 60 lines."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and (size := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
            yield node.lineno, f"{node.name} has {size} lines, more than {LONGEST_FUNCTION}"


def guessed_attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of every hasattr: a type says what it has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            yield node.lineno, "hasattr; give the type an attribute that is always there"


def environment_reads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of every read of an environment variable: settings are arguments."""
    for node in ast.walk(tree):
        attribute = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        name = isinstance(node, ast.ImportFrom) and {"environ", "getenv"} & {alias.name for alias in node.names}
        if attribute or name:
            yield node.lineno, "reads the environment; make it an argument"


def unfinished(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of every NotImplementedError: a method that a subclass must write is abstract."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, "NotImplementedError; write it, or leave it out"


def undocumented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of a module, public class or public top-level function without a docstring."""
    if tree.body and not ast.get_docstring(tree):
        yield 1, "the module has no docstring"
    for node in tree.body:
        public = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no docstring"


RULES: tuple[Rule, ...] = (long_functions, guessed_attributes, environment_reads, unfinished, undocumented)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_has_no(rule: Rule) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in LIBRARY
        for line, what in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_no_library_file_is_long() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in LIBRARY}
    assert {name: size for name, size in sizes.items() if size > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION),
        (guessed_attributes, "hasattr(x, 'bias')"),
        (environment_reads, "import os\nos.environ.get('A')"),
        (environment_reads, "from os import getenv"),
        (unfinished, "def f():\n    raise NotImplementedError"),
        (undocumented, "x = 1"),
        (undocumented, '"""A module."""\ndef f():\n    pass'),
        (undocumented, '"""A module."""\nclass C:\n    pass'),
    ],
)
def test_a_planted_violation_is_found(rule: Rule, source: str) -> None:
    assert len(list(rule(ast.parse(source)))) == 1
