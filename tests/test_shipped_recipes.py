"""The recipes that come with omniq: each is valid, says what for, is found by name, and makes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TEXT, save_tiny

from omniq import recipes
from omniq.audit.models import recipe_named
from omniq.calibrate.data import DataSpec
from omniq.choices import recipe_file, recipe_from
from omniq.errors import UsageError
from omniq.pipeline import quantize
from omniq.recipe import Recipe, read_recipe

QUICK = {"default": {"steps": 2}, "best": {"steps": 2}}
"""Options that make a preset quick without leaving a step of it out."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose input sizes the groups of 64 divide, beside text.txt."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "text.txt").write_text(TEXT * 8)
    return save_tiny("llama", folder / "model", intermediate_size=128)


def test_there_are_recipes_for_two_three_and_four_bits() -> None:
    bits = {Recipe.from_dict(read_recipe(recipes.file_of(name))).scheme.weight.bits for name in recipes.names()}
    assert bits == {2, 3, 4}


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_makes_a_checkpoint_that_reads_back(name: str, model: Path, tmp_path: Path) -> None:
    recipe = recipe_from(Path(name), {"calib": str(model.parent / "text.txt"), "samples": 2, "length": 16})
    assert recipe.data == DataSpec(str(model.parent / "text.txt"), 2, 16)
    values = recipe.to_dict()
    quick = Recipe.from_dict({**values, "options": {**values["options"], **QUICK.get(recipe.preset, {})}})
    report = quantize(str(model), tmp_path / "out", quick)
    assert report.verified
    assert report.scheme == recipe.label


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_what_it_is_for_in_one_line_and_names_no_text_of_its_own(name: str) -> None:
    assert 20 < len(recipes.purpose(name)) <= 120
    assert not recipes.purpose(name).startswith("scheme")
    assert Recipe.from_dict(read_recipe(recipes.file_of(name))).data.source == "self"


def test_a_name_wins_and_anything_else_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w3").write_text("scheme: W8A16\n")
    Path("mine").write_text("scheme: W8A16\n")
    assert recipe_file(Path("w3")) == recipes.file_of("w3")
    assert recipe_file(Path("mine")) == Path("mine")
    assert recipe_file(Path("w3.yaml")) == Path("w3.yaml")


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(UsageError, match=r"there is no recipe 'w5'.*cpu-small, .*w4a4"):
        recipe_from(Path("w5"), {})


def test_an_option_wins_over_a_recipe() -> None:
    assert recipe_from(Path("w4-fast"), {"group_size": 32}).scheme.weight.group_size == 32


def test_an_audit_takes_the_same_names() -> None:
    assert recipe_named("w3")[1] == recipe_from(Path("w3"), {})
    with pytest.raises(UsageError, match="or one of cpu-small"):
        recipe_named("w5")
