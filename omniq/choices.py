"""From a recipe file and the options of the command line to a Recipe; an option given wins over the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniq import recipes
from omniq.errors import UsageError
from omniq.recipe import Recipe, read_recipe
from omniq.spec import FLOAT_BITS, LinearSpec, QuantSpec, act_spec
from omniq.strict_yaml import parsed

DEFAULT_SCHEME = "W4A16g128"
DATA = {
    "calib": "source",
    "samples": "samples",
    "length": "length",
    "seed": "seed",
    "split": "split",
    "column": "column",
}
IN_SCHEME = ("wbits", "abits", "group_size", "symmetric", "act_symmetric")
METHOD = ("epochs", "let", "lwc_lr", "let_lr", "alpha", "aug_loss")
PLAIN = (
    "preset",
    "attention",
    "kv_bits",
    "batch_size",
    "format",
    "embed_bits",
    "embed_group_size",
    "seed",
    "avg_bits",
    "rotate",
    "search_clips",
)

Values = Mapping[str, Any]


def recipe_from(config: Path | None, params: Values) -> Recipe:
    """params: the command's parameters by name, None where not given. config: a recipe's name, a YAML file or None."""
    base = read_recipe(recipe_file(config)) if config else {}
    values = recipe_values(base, params)
    return Recipe.from_dict(values, str(config) if config else "the command line")


def recipe_file(config: Path) -> Path:
    """The file of a recipe that comes with omniq, by its name, or else `config` itself."""
    found = recipes.file_of(str(config))
    if found is None and not config.suffix and not config.exists():
        raise UsageError(
            f"there is no recipe {str(config)!r}; give --config a YAML file or one of {', '.join(recipes.names())}"
        )
    return found or config


def recipe_values(base: Values, params: Values) -> dict[str, Any]:
    """The mapping of a recipe file with the given parameters of the command line put over it."""
    parsed = dict(params)
    if parsed.get("bits_choices") is not None:
        parsed["bits_choices"] = numbers(parsed["bits_choices"])
    return merged(base, parsed, assignments(parsed.get("set_") or []))


def merged(base: Values, params: Values, options: Values) -> dict[str, Any]:
    """The mapping of a recipe file with the given parameters, and options of the preset, put over it."""
    given = {name: value for name, value in params.items() if value is not None}
    values = {**base, **{name: given[name] for name in PLAIN if name in given}}
    if "avg_bits" in given and "wbits" in given:
        raise UsageError("--wbits and --avg-bits both say how many bits a weight has; give one of them")
    if "wbits" in given:
        values = {key: value for key, value in values.items() if key not in ("avg_bits", "bits_choices")}
    if "bits_choices" in given:
        values["bits_choices"] = given["bits_choices"]
    values["scheme"] = str(scheme(str(base.get("scheme", DEFAULT_SCHEME)), given))
    values["data"] = _over(base, "data", {key: given[name] for name, key in DATA.items() if name in given})
    # Options in the file belong to the preset in the file.
    own = base.get("preset", Recipe.preset)
    kept = base if given.get("preset", own) == own else {}
    named = {name: given[name] for name in METHOD if name in given}
    values["options"] = _over(kept, "options", {**named, **options})
    return values


def _over(base: Values, key: str, given: Values) -> Any:
    """The mapping base[key] with `given` over it; what is no mapping is left for Recipe.from_dict to refuse."""
    found = base.get(key) or {}
    return {**found, **given} if isinstance(found, Mapping) else found


def scheme(base: str, given: Values) -> LinearSpec:
    """`base`, such as 'W4A16g128', with the given bits, group size and symmetries in its place."""
    spec = LinearSpec.parse(base)
    if not set(IN_SCHEME) & set(given):
        return spec
    weight = QuantSpec(
        given.get("wbits", spec.weight.bits),
        given.get("group_size", spec.weight.group_size),
        given.get("symmetric", spec.weight.symmetric),
    )
    bits = given.get("abits", spec.input.bits if spec.input else FLOAT_BITS)
    if bits == FLOAT_BITS and "act_symmetric" in given:
        raise UsageError("--act-symmetric and --act-asymmetric need quantised activations; add for example --abits 8")
    return LinearSpec(weight, act_spec(bits, given.get("act_symmetric", spec.input.symmetric if spec.input else True)))


def numbers(text: str) -> list[int]:
    """'2,3,4' -> [2, 3, 4]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--bits-choices {text!r} is no list of whole numbers; write for example 2,3,4") from None


def assignments(texts: list[str]) -> dict[str, Any]:
    """['damp=0.1', 'order=false'] -> {'damp': 0.1, 'order': False}; values are read as YAML."""
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text!r} is not of the form key=value, for example --set damp=0.05")
        values[key.strip().replace("-", "_")] = parsed(
            value, f"--set {text!r}: write for example --set damp=0.05; this"
        )
    return values
