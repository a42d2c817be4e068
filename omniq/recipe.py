"""Recipe: everything that decides the result of one quantisation run, as frozen values with a YAML form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from omniq.calibrate.data import DataSpec
from omniq.calibrate.method import METHODS, Method
from omniq.errors import UsageError
from omniq.spec import LinearSpec

MAX_SEED = 2**63 - 1
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Mapping: "a mapping",
    type(None): "null",
    LinearSpec: "a LinearSpec",
    DataSpec: "a DataSpec",
}


@dataclass(frozen=True)
class Recipe:
    """scheme: the number formats of every linear. preset: the method, `options` its settings by name.

    data: where calibration tokens come from. attention: with fewer than 16 activation bits, also quantise q, k and v
    inside attention. batch_size: sequences per forward pass and, where the preset trains, per step. format: the
    checkpoint layout. seed: of everything random in calibration.
    """

    scheme: LinearSpec
    preset: str = "omniquant"
    options: Mapping[str, Any] = field(default_factory=dict)
    data: DataSpec = field(default_factory=DataSpec)
    attention: bool = True
    batch_size: int = 1
    format: str = "compressed-tensors"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(vars(self), Recipe, "recipe: ")
        check_types(vars(self.data), DataSpec, "recipe: data: ")
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be 1 or more")
        for seed in (self.seed, self.data.seed):
            if not 0 <= seed <= MAX_SEED:
                raise UsageError(f"seed is {seed}; it must be between 0 and {MAX_SEED}")

    def method(self) -> Method:
        """The preset with its options; one that it does not have, or of another type, is a UsageError."""
        kind = METHODS[self.preset]
        known = [f.name for f in fields(kind)]
        unknown = sorted(map(str, set(self.options) - set(known)))
        if unknown:
            listed = ", ".join(known) or "none"
            raise UsageError(
                f"preset {self.preset!r} has no option {', '.join(map(repr, unknown))}; its options: {listed}"
            )
        check_types(self.options, kind, f"preset {self.preset!r}: option ")
        return kind(**self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; from_dict gives the same recipe back."""
        return {**asdict(self), "scheme": str(self.scheme), "options": dict(self.options), "data": asdict(self.data)}

    @staticmethod
    def from_dict(values: Mapping[str, Any], place: str = "recipe") -> Recipe:
        """Plain values -> Recipe; an unknown key, at any level, is a UsageError naming `place` and the known keys."""
        check_keys(values, Recipe, place)
        if "scheme" not in values:
            raise UsageError(f"{place}: 'scheme' is missing; write for example scheme: W4A16g128")
        data = values.get("data") or {}
        check_keys(data, DataSpec, f"{place}: data")
        options = values.get("options") or {}
        if not isinstance(options, Mapping):
            raise UsageError(f"{place}: options must be a mapping, got {options!r}")
        plain = {k: v for k, v in values.items() if k not in ("scheme", "data", "options")}
        check_types(plain, Recipe, f"{place}: ")
        check_types(data, DataSpec, f"{place}: data: ")
        recipe = Recipe(scheme=LinearSpec.parse(str(values["scheme"])), data=DataSpec(**data), options=options, **plain)
        recipe.method()
        return recipe


def check_keys(values: Any, kind: type, place: str) -> None:
    """Raises UsageError unless `values` is a mapping whose keys are fields of the dataclass `kind`."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{place}: expected a mapping of settings, got {values!r}")
    known = [f.name for f in fields(kind)]
    unknown = sorted(str(key) for key in set(values) - set(known))
    if unknown:
        raise UsageError(f"{place}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(known)}")


def check_types(values: Mapping[str, Any], kind: type, place: str) -> None:
    """Raises UsageError for a value that is not of the type its field of the dataclass `kind` declares."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        types = _alternatives(hints[name])
        if not any(_is_a(value, one) for one in types):
            raise UsageError(f"{place}{name} is {value!r}; expected {' or '.join(WORDS[one] for one in types)}")


def _alternatives(hint: Any) -> tuple[type, ...]:
    """The types of an annotation: bool | None -> (bool, NoneType), Mapping[str, Any] -> (Mapping,)."""
    origin = get_origin(hint)
    return (origin or hint,) if origin in (None, Mapping) else get_args(hint)


def _is_a(value: Any, kind: type) -> bool:
    """isinstance, where true is no number, a whole number is a number, and infinity and NaN are none."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a file that is missing or is not YAML is a UsageError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"the recipe {path} must be a mapping such as 'scheme: W4A16g128'")
    return values
