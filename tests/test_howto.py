"""What to type: the command of a recipe gives the recipe back, and snippets are of runtimes that load a checkpoint."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import typer

from omniq.calibrate.data import DataSpec
from omniq.choices import recipe_from
from omniq.cli import quantize
from omniq.formats.base import FORMATS
from omniq.howto.command import quantize_command
from omniq.howto.loading import CODE, loads, runtime_of, snippets
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

PLAIN = Recipe(LinearSpec.parse("W4A16g128"))
RECIPES = {
    "default": PLAIN,
    "rtn": replace(PLAIN, preset="rtn"),
    "w3": replace(PLAIN, scheme=LinearSpec.parse("W3A16-asym"), preset="gptq", options={"damp": 1e-5, "order": False}),
    "w4a4": replace(PLAIN, scheme=LinearSpec.parse("W4A4g32-actasym"), attention=False, search_clips=False),
    "rotated": replace(PLAIN, scheme=LinearSpec.parse("W4A4g32"), rotate="inputs", search_clips=True, preset="default"),
    "mixed": replace(PLAIN, avg_bits=3.25, bits_choices=(2, 3, 4), preset="fast"),
    "tables": replace(PLAIN, embed_bits=8, embed_group_size=32, batch_size=4),
    "text": replace(PLAIN, data=DataSpec("a text; 'quoted'.txt", 8, 512, 7, "valid", "body"), seed=7),
    "options": replace(
        PLAIN, preset="omniquant", options={"epochs": 2, "let": True, "clip": "step", "aug_loss": None, "lwc_lr": 3e-07}
    ),
}


@pytest.mark.parametrize("key", list(RECIPES))
def test_the_command_of_a_recipe_gives_the_recipe_back(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, given = RECIPES[key], {}
    app = typer.Typer()
    app.command()(quantize.command)
    command = typer.main.get_command(app)
    words = shlex.split(quantize_command(wanted, "org/model"))
    assert words[:2] == ["omniq", "quantize"]
    with command.make_context("quantize", words[2:]) as context:
        given = dict(context.params)
    assert (given["model"], str(given["out"])) == ("org/model", "OUT")
    assert recipe_from(given.pop("config"), given) == wanted


def test_two_seeds_need_a_file() -> None:
    assert quantize_command(replace(PLAIN, seed=3), "m").endswith("--config recipe.yaml")


SCHEMES = ("W4A16g128", "W3A16g128", "W4A16g16", "W4A16-asym", "W4A4", "W8A8", "W4A4-clip0.9", "W4A16g128-had")


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_there_is_a_snippet_for_every_runtime_that_loads_and_for_no_other(name: str, scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    sentences = FORMATS[name].loaded_by(spec, False, False)
    found = [one.runtime for one in snippets(sentences)]
    assert set(found) == {runtime_of(one) for one in sentences if loads(one)}
    named = {name for one in sentences for name in runtime_of(one).split(", ")}
    assert named <= set(CODE), "a new runtime needs a snippet"
    assert "omniq" in found


def test_a_place_is_quoted_for_the_shell() -> None:
    (serve,) = snippets(("vLLM: yes.",), "my model")
    assert "vllm serve 'my model'" in serve.code
    assert not loads("SGLang: no, it does not.")
    assert not loads("vLLM: unlikely, its kernels want more.")
    assert loads("vLLM: recent versions, on GPUs.")
