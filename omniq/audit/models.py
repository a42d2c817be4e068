"""Which models an audit looks at: those given, and those it has to make: quantised ones and their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omniq import recipes
from omniq.audit.result import Tested
from omniq.errors import OmniqError, UsageError
from omniq.recipe import Recipe, read_recipe
from omniq.source import config_values
from omniq.spec import FLOAT_BITS, LinearSpec

ORIGINAL, NEVER, CONTROL, UNLEARNED, QUANTIZED = "orig_fp", "never_fp", "orig_q", "unl_fp", "unl_q"


@dataclass(frozen=True)
class Planned:
    """One model of the audit, and, where it has yet to be made, the recipe and the model it is made from."""

    tested: Tested
    recipe: Recipe | None = None
    base: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the model lies, or will lie."""
        return Path(self.tested.folder)


@dataclass(frozen=True)
class Given:
    """The folders that the user names; recipes: of quantised models still to be made, by a label."""

    original: Path
    unlearned: Path | None = None
    never: Path | None = None
    quantized: tuple[Path, ...] = ()
    controls: tuple[Path, ...] = ()
    recipes: Mapping[str, Recipe] | None = None


def recipe_named(text: str) -> tuple[str, Recipe]:
    """The name of a recipe, a YAML file, or METHOD:SCHEME such as rtn:W4A16g64 -> (label, recipe)."""
    named = recipes.file_of(text)
    if named or Path(text).suffix in (".yaml", ".yml"):
        recipe = Recipe.from_dict(read_recipe(named or Path(text)), text)
    else:
        method, colon, scheme = text.partition(":")
        if not colon:
            raise UsageError(
                f"--recipe {text}: give a YAML file, METHOD:SCHEME such as rtn:W4A16g64, or one of "
                f"{', '.join(recipes.names())}"
            )
        recipe = Recipe.from_dict({"scheme": scheme, "preset": method}, f"--recipe {text}")
    return label_of(recipe), recipe


def label_of(recipe: Recipe) -> str:
    """'gptq W4A16g64'."""
    return f"{recipe.preset} {recipe.scheme}"


def recorded_recipe(folder: Path) -> Recipe | None:
    """The recipe that a checkpoint was made by, None where another tool made it."""
    recorded = config_values(folder).get("omniq")
    values = recorded.get("recipe") if isinstance(recorded, dict) else None
    try:
        return Recipe.from_dict(values, str(folder)) if isinstance(values, dict) else None
    except OmniqError:
        return None


def planned(given: Given, made: Callable[[str], Path]) -> list[Planned]:
    """Every model of the audit in the order in which they are measured. made: where one goes that has to be made."""
    if not given.quantized and not given.recipes and given.unlearned is None:
        raise UsageError("an audit compares models; give --quantized FOLDER or --recipe METHOD:SCHEME, or --unlearned")
    models = [dense(ORIGINAL, given.original)]
    if given.never is not None:
        models.append(dense(NEVER, given.never))
    if given.unlearned is None:
        return models + unique(quantised(given, CONTROL, given.original, made))
    below = unique(quantised(given, QUANTIZED, given.unlearned, made))
    controls, paired = with_controls(below, given, made)
    return [*models, *controls, dense(UNLEARNED, given.unlearned), *paired]


def dense(role: str, folder: Path) -> Planned:
    """A model that is given and not quantised."""
    return Planned(Tested(role, role, folder.name, str(folder)))


def quantised(given: Given, role: str, base: Path, made: Callable[[str], Path]) -> list[Planned]:
    """The quantised models given, and those to be made from `base`."""
    made_already = [(folder, recorded_recipe(folder), None) for folder in given.quantized]
    to_make = [
        (made(f"{role}-{label.replace(' ', '-')}"), recipe, base) for label, recipe in (given.recipes or {}).items()
    ]
    return [
        Planned(Tested(role, role, folder=str(folder), **facts(recipe, folder)), recipe, source)
        for folder, recipe, source in made_already + to_make
    ]


def facts(recipe: Recipe | None, folder: Path) -> dict[str, Any]:
    """label, method, scheme and bits of a quantised model; of a foreign one what its config says."""
    if recipe is None:
        config = config_values(folder).get("quantization_config") or {}
        if not config:
            raise UsageError(
                f"{folder} is not quantised (its config.json has no quantization_config); give it as --unlearned"
            )
        bits = config.get("bits") if isinstance(config.get("bits"), int) else None
        return {"label": folder.name, "method": str(config.get("quant_method", "")), "bits": bits or FLOAT_BITS}
    spec: LinearSpec = recipe.scheme
    return {
        "label": label_of(recipe),
        "method": recipe.preset,
        "scheme": str(spec),
        "bits": spec.weight.bits,
        "group": spec.weight.group_size,
        "sym": spec.weight.symmetric,
        "act_bits": spec.input.bits if spec.input else FLOAT_BITS,
    }


def unique(models: list[Planned]) -> list[Planned]:
    """The same models, named by their role alone where it is the only one, else also by label or folder."""
    if len(models) < 2:
        return models
    labels = [model.tested.label for model in models]
    names = [
        label if labels.count(label) == 1 else model.folder.name for model, label in zip(models, labels, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two quantised models are called {twice!r}; give folders of different names, or one of them")
    return [
        replace(model, tested=replace(model.tested, name=f"{model.tested.role}:{name}"))
        for model, name in zip(models, names, strict=True)
    ]


def with_controls(
    models: list[Planned], given: Given, made: Callable[[str], Path]
) -> tuple[list[Planned], list[Planned]]:
    """(controls, the quantised models with the names of theirs); a control is made where the recipe is known."""
    if given.controls and len(given.controls) != len(models):
        raise UsageError(
            f"{len(given.controls)} controls are given for {len(models)} quantised models; "
            "give one --control for each --quantized and --recipe in their order, or none"
        )
    controls, paired = [], []
    for index, model in enumerate(models):
        name = model.tested.name.replace(QUANTIZED, CONTROL, 1)
        folder = given.controls[index] if given.controls else made(name.replace(" ", "-").replace(":", "-"))
        recipe = None if given.controls else model.recipe
        if not given.controls and recipe is None:
            raise UsageError(
                f"{model.folder} does not say how it was quantised, so the original cannot be quantised in the same "
                "way; do that with the tool that made it and give the result as --control FOLDER"
            )
        tested = replace(model.tested, name=name, role=CONTROL, folder=str(folder))
        controls.append(Planned(tested, recipe, given.original if recipe else None))
        paired.append(replace(model, tested=replace(model.tested, control=name)))
    return controls, paired
