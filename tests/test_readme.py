"""What the README, the documentation, the Makefile and the recipes in them say, held against the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import omniq
from omniq.calibrate.method import METHODS
from omniq.cli.app import app
from omniq.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
ROOT_COMMAND = typer.main.get_command(app)
GROUPS = {name: group for name, group in ROOT_COMMAND.commands.items() if isinstance(group, type(ROOT_COMMAND))}
COMMANDS = {
    "omniq": ROOT_COMMAND,
    **ROOT_COMMAND.commands,
    **{f"{name} {leaf}": command for name, group in GROUPS.items() for leaf, command in group.commands.items()},
}


def blocks(language: str) -> list[str]:
    """The code blocks of the README and the documentation in one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README + GUIDES, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def command_lines() -> list[str]:
    """Every line of a code block of the README and the documentation, and of the Makefile, that runs omniq."""
    return re.findall(r"^(?:omniq|\t\$\(BIN\)/omniq) (.+)$", "".join(blocks("")) + MAKEFILE, re.MULTILINE)


def options(name: str) -> set[str]:
    """Every option of one command."""
    return {option for param in COMMANDS[name].params for option in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("line", command_lines())
def test_a_documented_command_line_is_one_that_omniq_takes(line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    if name.startswith("-"):
        assert {name, *words} <= options("omniq")
        return
    # A group such as audit is a command itself where an option comes next.
    if name in GROUPS and not words[0].startswith("-"):
        name = f"{name} {words.pop(0)}"
    assert name in COMMANDS
    assert {word for word in words if re.match(r"-+[a-z]", word)} <= options(name)


def test_there_are_command_lines_to_check() -> None:
    assert len(command_lines()) >= 10


def test_an_option_in_the_text_is_one_that_some_command_has() -> None:
    assert set(re.findall(r"`(--[a-z-]+)", README + GUIDES)) <= set().union(*map(options, COMMANDS))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_documented_recipe_is_valid(text: str) -> None:
    Recipe.from_dict(yaml.safe_load(text))


@pytest.mark.parametrize("text", blocks("python"), ids=range(len(blocks("python"))))
def test_documented_python_compiles_and_its_imports_exist(text: str) -> None:
    compile(text, "README", "exec")
    for line in re.findall(r"^(?:import|from) .+$", text, re.MULTILINE):
        exec(line, {})


def test_every_preset_is_described() -> None:
    assert [name for name in METHODS if f"| `{name}` |" not in GUIDES] == []


@pytest.mark.parametrize("name", ["load", "quantize"])
def test_the_package_offers_its_two_verbs(name: str) -> None:
    assert f"omniq.{name}(" in README
    assert callable(getattr(omniq, name))


def test_the_package_offers_nothing_else_by_accident() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = omniq.quantise
