"""Which models an audit looks at: roles, names, controls, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omniq.audit.models import Given, Planned, planned, recipe_named, recorded_recipe
from omniq.audit.prepare import check_same_shape
from omniq.errors import ModelError, UsageError
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

W4 = Recipe(LinearSpec.parse("W4A16g32"), preset="rtn")
W3 = Recipe(LinearSpec.parse("W3A16g32"), preset="rtn")


def folder(path: Path, recipe: Recipe | None = None, **config: object) -> Path:
    """A folder with the config.json of a model, quantised by `recipe` where one is given."""
    path.mkdir(parents=True, exist_ok=True)
    values = {"model_type": "llama", "hidden_size": 64, **config}
    if recipe:
        values |= {"quantization_config": {"quant_method": "compressed-tensors"}, "omniq": {"recipe": recipe.to_dict()}}
    (path / "config.json").write_text(json.dumps(values))
    return path


def plan(tmp_path: Path, **given: object) -> dict[str, Planned]:
    """The models of an audit by name, in order."""
    models = planned(Given(folder(tmp_path / "base"), **given), lambda name: tmp_path / "made" / name)
    return {model.tested.name: model for model in models}


def test_models_are_measured_before_those_that_are_compared_with_them(tmp_path: Path) -> None:
    never, unlearned = folder(tmp_path / "never"), folder(tmp_path / "unlearned")
    models = plan(tmp_path, never=never, unlearned=unlearned, quantized=(folder(tmp_path / "w4", W4),))
    assert list(models) == ["orig_fp", "never_fp", "orig_q", "unl_fp", "unl_q"]
    assert [model.tested.role for model in models.values()] == list(models)


def test_the_control_is_made_by_the_recipe_that_the_checkpoint_records(tmp_path: Path) -> None:
    models = plan(tmp_path, unlearned=folder(tmp_path / "unlearned"), quantized=(folder(tmp_path / "w4", W4),))
    control = models["orig_q"]
    assert (control.recipe, control.base) == (W4, tmp_path / "base")
    assert models["unl_q"].base is None
    assert models["unl_q"].tested.control == "orig_q"


def test_a_control_that_is_given_is_not_made(tmp_path: Path) -> None:
    control = folder(tmp_path / "control", W4)
    models = plan(
        tmp_path,
        unlearned=folder(tmp_path / "unlearned"),
        quantized=(folder(tmp_path / "foreign", quantization_config={"quant_method": "gptq", "bits": 4}),),
        controls=(control,),
    )
    assert (models["orig_q"].folder, models["orig_q"].base) == (control, None)
    assert (models["unl_q"].tested.method, models["unl_q"].tested.bits) == ("gptq", 4)


def test_a_checkpoint_that_does_not_say_how_it_was_made_needs_a_control(tmp_path: Path) -> None:
    foreign = folder(tmp_path / "foreign", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UsageError, match="--control"):
        plan(tmp_path, unlearned=folder(tmp_path / "unlearned"), quantized=(foreign,))


def test_without_an_unlearned_model_the_quantised_ones_are_the_controls(tmp_path: Path) -> None:
    models = plan(tmp_path, quantized=(folder(tmp_path / "w4", W4),))
    assert [(model.tested.name, model.tested.role) for model in models.values()] == [
        ("orig_fp", "orig_fp"),
        ("orig_q", "orig_q"),
    ]


def test_several_quantised_models_are_told_apart_by_how_they_were_made(tmp_path: Path) -> None:
    recipes = {"rtn W4A16g32": W4, "rtn W3A16g32": W3}
    models = plan(tmp_path, unlearned=folder(tmp_path / "unlearned"), recipes=recipes)
    assert [name for name in models if name.startswith("unl_q")] == ["unl_q:rtn W4A16g32", "unl_q:rtn W3A16g32"]
    for label, recipe in recipes.items():
        model = models[f"unl_q:{label}"]
        assert (model.base, model.recipe) == (tmp_path / "unlearned", recipe)
        control = models[model.tested.control]
        assert (control.tested.role, control.base, control.recipe) == ("orig_q", tmp_path / "base", recipe)
    assert [model.tested.bits for model in models.values() if model.tested.role == "unl_q"] == [4, 3]


def test_two_quantised_models_of_one_name_are_refused(tmp_path: Path) -> None:
    given = (folder(tmp_path / "a" / "w4", W4), folder(tmp_path / "b" / "w4", W4))
    with pytest.raises(UsageError, match="two quantised models"):
        plan(tmp_path, quantized=given)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "compares models"),
        ({"controls": ("x", "y")}, "for 1 quantised"),
    ],
)
def test_what_cannot_be_audited_is_a_sentence(tmp_path: Path, given: dict, word: str) -> None:
    if given:
        given |= {"unlearned": folder(tmp_path / "unlearned"), "quantized": (folder(tmp_path / "w4", W4),)}
    with pytest.raises(UsageError, match=word):
        plan(tmp_path, **given)


def test_a_model_given_as_quantised_must_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not quantised"):
        plan(tmp_path, quantized=(folder(tmp_path / "dense"),))


def test_a_recipe_is_a_file_or_a_method_with_a_scheme(tmp_path: Path) -> None:
    assert recipe_named("gptq:W3A16g64")[0] == "gptq W3A16g64"
    file = tmp_path / "recipe.yaml"
    file.write_text("scheme: W3A16g64\npreset: awq\n")
    assert recipe_named(str(file))[0] == "awq W3A16g64"
    for wrong, word in (("rtn", "METHOD:SCHEME"), ("rtn:W4", "not a scheme"), ("magic:W4A16", "unknown preset")):
        with pytest.raises(UsageError, match=word):
            recipe_named(wrong)


def test_a_damaged_recipe_in_a_checkpoint_counts_as_none(tmp_path: Path) -> None:
    assert recorded_recipe(folder(tmp_path / "w4", W4)) == W4
    assert recorded_recipe(folder(tmp_path / "odd", omniq={"recipe": {"scheme": "W99"}})) is None
    assert recorded_recipe(folder(tmp_path / "odder", omniq="yes")) is None


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"model_type": "opt"}, {"vocab_size": 7}])
def test_models_of_different_shape_are_refused(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ModelError, match=next(iter(change))):
        check_same_shape(folder(tmp_path / "a"), [folder(tmp_path / "b", **change)])
