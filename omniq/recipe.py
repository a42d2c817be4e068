"""Recipe: everything that decides the result of one quantisation run, as frozen values with a YAML form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omniq.calibrate.data import DataSpec
from omniq.calibrate.method import METHODS, Method
from omniq.errors import UsageError
from omniq.spec import ACT_BITS, FLOAT_BITS, ROTATIONS, TABLE_BITS, WEIGHT_BITS, LinearSpec
from omniq.strict_yaml import parsed

MAX_SEED = 2**63 - 1
AUTO = "auto"
FEW_BITS = 4
"""Activation bits from which on down a model is rotated unless told otherwise."""
PUBLISHED = ("rtn", "gptq", "awq", "omniquant")
"""Presets that stay what was published: nothing is added to them that was not asked for."""
BITS_CHOICES = (2, 3, 4, 8)
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Mapping: "a mapping",
    tuple: "a list",
    type(None): "null",
    LinearSpec: "a LinearSpec",
    DataSpec: "a DataSpec",
}


@dataclass(frozen=True)
class Recipe:
    """scheme: the number formats of every linear. preset: the method, `options` its settings by name.

    data: where calibration tokens come from. attention: with fewer than 16 activation bits, also quantise q, k and v
    inside attention. kv_bits: below 16, k and v there get so many bits, whatever the activations have, and q stays in
    floating point. batch_size: sequences per forward pass and, where the preset trains, per step. format: the
    checkpoint layout. seed: of everything random in calibration. rotate: how the model is rotated first, one of
    ROTATIONS. search_clips: choose how far activation grids are clipped on the calibration tokens. Both are settled by
    `rotation` and `clips`: with few activation bits they are on, save for published presets.
    embed_bits: of the embedding table and the output head, one of TABLE_BITS. embed_group_size: values of a row that
    share a scale; None takes the scheme's groups where they divide a row, else the first of 64, 32 and 128 that does.
    avg_bits: choose the weight bits of each linear among bits_choices, by measured sensitivity, so that a weight has so
    many on average over all quantised linears (its code alone; scales come on top); None: all have the scheme's bits.

    embed_bits is 16 unless asked for, since vLLM and SGLang do not serve a quantised table. By quality alone it is 8:
    on SmolLM2 135M and Gemma 3 270M it took 23 and 42 % off the checkpoint for 0.002 nats of KL; 4 bits cost 0.17 and
    0.19.
    """

    scheme: LinearSpec
    preset: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)
    data: DataSpec = field(default_factory=DataSpec)
    attention: bool = True
    kv_bits: int = FLOAT_BITS
    batch_size: int = 1
    format: str = "compressed-tensors"
    seed: int = 0
    rotate: str = AUTO
    search_clips: bool | None = None
    embed_bits: int = FLOAT_BITS
    embed_group_size: int | None = None
    avg_bits: float | None = None
    bits_choices: tuple[int, ...] = BITS_CHOICES

    def __post_init__(self) -> None:
        check_types(vars(self), Recipe, "recipe: ")
        check_types(vars(self.data), DataSpec, "recipe: data: ")
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if self.rotate not in (AUTO, *ROTATIONS):
            raise UsageError(f"rotate is {self.rotate!r}; use one of {', '.join((AUTO, *ROTATIONS))}")
        if self.kv_bits not in (*ACT_BITS, FLOAT_BITS):
            raise UsageError(f"kv_bits is {self.kv_bits}; use 2 to 8, or 16 to keep keys and values in floating point")
        if self.scheme.transform:
            raise UsageError(f"scheme {self.scheme} asks for a transform of inputs; ask with rotate: inputs instead")
        if self.embed_bits not in TABLE_BITS:
            raise UsageError(f"embed_bits is {self.embed_bits}; use one of {', '.join(map(str, TABLE_BITS))}")
        if self.embed_group_size is not None and self.embed_bits == FLOAT_BITS:
            raise UsageError("embed_group_size needs a quantised embedding table; add embed_bits, 8 or 4")
        check_choices(self.avg_bits, tuple(self.bits_choices))
        for seed in (self.seed, self.data.seed):
            if not 0 <= seed <= MAX_SEED:
                raise UsageError(f"seed is {seed}; it must be between 0 and {MAX_SEED}")

    @property
    def rotation(self) -> str:
        """One of ROTATIONS. By itself 'inputs', which lost least of all when measured and needs no table."""
        if self.rotate != AUTO:
            return self.rotate
        return "inputs" if self._adds_for_few_bits() else "none"

    @property
    def clips(self) -> bool:
        """Whether clips of activation grids are searched."""
        return self._adds_for_few_bits() if self.search_clips is None else self.search_clips

    def _adds_for_few_bits(self) -> bool:
        few = self.scheme.input is not None and self.scheme.input.bits <= FEW_BITS
        return few and self.preset not in PUBLISHED

    @property
    def label(self) -> str:
        """The scheme for people: 'W4A16g64', or 'W3A16g64-mixed' for 3 bits on average."""
        if self.avg_bits is None:
            return str(self.scheme)
        return f"W{self.avg_bits:g}{str(self.scheme).removeprefix(f'W{self.scheme.weight.bits}')}-mixed"

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are needed: by the preset, or to measure sensitivity."""
        return self.method().needs_data or self.avg_bits is not None

    def candidates(self) -> tuple[LinearSpec, ...]:
        """What a linear may become: the scheme, or the scheme at each of the bits to choose from."""
        if self.avg_bits is None:
            return (self.scheme,)
        return tuple(self.scheme.with_bits(bits) for bits in self.bits_choices)

    def method(self) -> Method:
        """The preset with its options; one that it does not have, or of another type, is a UsageError."""
        kind = METHODS[self.preset]
        known = [f.name for f in fields(kind)]
        unknown = sorted(map(str, set(self.options) - set(known)))
        if unknown:
            listed = ", ".join(known) or "none"
            others = [name for name, other in METHODS.items() if set(unknown) <= {f.name for f in fields(other)}]
            theirs = f"; --preset {' or '.join(others)} has" if others else ""
            raise UsageError(
                f"preset {self.preset!r} has no option {', '.join(map(repr, unknown))}; its options: {listed}{theirs}"
            )
        check_types(self.options, kind, f"preset {self.preset!r}: option ")
        return kind(**self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; from_dict gives the same recipe back."""
        plain = {"scheme": str(self.scheme), "options": dict(self.options), "bits_choices": list(self.bits_choices)}
        return {**asdict(self), **plain, "data": asdict(self.data)}

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
        if "bits_choices" in plain:
            plain["bits_choices"] = tuple(plain["bits_choices"])
        recipe = Recipe(scheme=LinearSpec.parse(str(values["scheme"])), data=DataSpec(**data), options=options, **plain)
        recipe.method()
        return recipe


def check_choices(average: float | None, choices: tuple[int, ...]) -> None:
    """Raises UsageError unless `choices` are weight bits that rise, and the average, if there is one, lies in them."""
    listed = ",".join(map(str, choices))
    whole = all(type(bits) is int and bits in WEIGHT_BITS for bits in choices)
    if not whole or len(choices) < 2 or list(choices) != sorted(set(choices)):
        raise UsageError(
            f"bits_choices are {listed or 'empty'}; give two or more rising numbers from 2 to 8, for example 2,3,4"
        )
    if average is None and choices != BITS_CHOICES:
        raise UsageError(f"bits_choices {listed} need a budget; add avg_bits, for example 3.0")
    if average is not None and not choices[0] <= average <= choices[-1]:
        raise UsageError(
            f"avg_bits is {average:g}; with bits_choices {listed} it must lie from {choices[0]} to {choices[-1]}"
        )


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
    """The types of an annotation: bool | None -> (bool, NoneType), so too Mapping[...], tuple[...]."""
    origin = get_origin(hint)
    return (origin or hint,) if origin in (None, Mapping, tuple) else get_args(hint)


def _is_a(value: Any, kind: type) -> bool:
    """isinstance, where true is no number, a whole number is a number, and infinity and NaN are none."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind)


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a file that is missing or is not YAML is a UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    values = parsed(text, f"the recipe {path}")
    if not isinstance(values, dict):
        raise UsageError(f"the recipe {path} must be a mapping such as 'scheme: W4A16g128'")
    return values
