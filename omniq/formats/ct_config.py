"""The `quantization_config` of compressed-tensors: LinearSpecs to config groups, and back.

A config has groups of targets with one scheme each, and a list of what to ignore. A target or an ignored entry is a
module's full name, a regular expression after 're:', or a class name. For one module an exact name wins over an
expression, and an expression over a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omniq.errors import ModelError, UnsupportedError
from omniq.spec import ActSpec, LinearSpec, QuantSpec

METHOD = "compressed-tensors"
LAYOUT = "pack-quantized"
CLASS = "Linear"
HEAD = "lm_head"
UNUSED = ("output_activations", "kv_cache_scheme", "transform_config")
"""Settings that change what a layer computes in ways that a LinearSpec cannot say."""

WEIGHTS = {
    "type": ("int",),
    "dynamic": (False,),
    "strategy": ("group", "channel"),
    "actorder": (None, False, "weight", "static"),
}
ACTIVATIONS = {"type": ("int",), "dynamic": (True,), "strategy": ("token",)}
DEFAULTS = {"type": "int", "dynamic": False}
"""What a setting that is not written means."""


def quantization_config(
    linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
) -> dict[str, Any]:
    """linears: spec by full module name. One spec targets the class of all linears; several list their names.

    Asymmetric weights without quantised activations ask transformers to expand them while loading ("dequantize"): its
    other path cannot read packed zero points. So does `expand`, for models whose own linear class reads its weight.
    With quantised activations that request would drop the activations' quantisation silently, so it is left out and
    transformers refuses the checkpoint instead.
    """
    names: dict[LinearSpec, list[str]] = {}
    for name, spec in linears.items():
        names.setdefault(spec, []).append(name)
    if len(names) > 1 and not all(spec.weight.symmetric for spec in names):
        schemes = ", ".join(sorted(map(str, names)))
        raise UnsupportedError(f"{METHOD} cannot mix schemes when one is asymmetric ({schemes}); use symmetric weights")
    groups = {
        f"group_{index}": {"targets": [CLASS] if len(names) == 1 else targets, **_scheme(spec)}
        for index, (spec, targets) in enumerate(names.items())
    }
    head = () if HEAD in linears else (HEAD,)
    config = {
        "quant_method": METHOD,
        "format": LAYOUT,
        "quantization_status": "compressed",
        "ignore": list(dict.fromkeys((*head, *ignore))),
        "config_groups": groups,
    }
    if any((expand or not spec.weight.symmetric) and spec.input is None for spec in names):
        config["dequantize"] = True
    return config


def _scheme(spec: LinearSpec) -> dict[str, Any]:
    """One config group without its targets. The format is repeated: with activations it would be guessed wrongly."""
    weight = spec.weight
    group = (
        {"strategy": "channel"} if weight.group_size == -1 else {"strategy": "group", "group_size": weight.group_size}
    )
    weights = {"num_bits": weight.bits, "type": "int", "symmetric": weight.symmetric, **group}
    acts = None
    if spec.input is not None:
        acts = {
            "num_bits": spec.input.bits,
            "type": "int",
            "symmetric": spec.input.symmetric,
            "strategy": "token",
            "dynamic": True,
        }
    return {"weights": weights, "input_activations": acts, "format": LAYOUT}


def specs_by_name(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
    """Spec by name for those of `names` (full names of linears) that are quantised; None: another method's config."""
    if config.get("quant_method") != METHOD:
        return None
    schemes = _schemes_by_target(config)
    ignored = _strings(config.get("ignore") or [], "ignore")
    found = {}
    for name in names:
        target = _target(name, tuple(schemes))
        if target is not None and _target(name, ignored) is None:
            found[name] = schemes[target]
    return found


def _schemes_by_target(config: Mapping[str, Any]) -> dict[str, LinearSpec]:
    """target -> spec, with everything that omniq does not compute refused by name."""
    _refuse_extras(config, "quantization_config")
    if config.get("sparsity_config") and config["sparsity_config"].get("format") not in (None, "dense"):
        raise UnsupportedError(f"sparse checkpoints ({config['sparsity_config']}) are not supported; use a dense one")
    if config.get("quantization_status") != "compressed":
        raise UnsupportedError(
            f"quantization_status is {config.get('quantization_status')!r}; only 'compressed' checkpoints are read"
        )
    groups = config.get("config_groups")
    if (
        not isinstance(groups, Mapping)
        or not groups
        or not all(isinstance(group, Mapping) for group in groups.values())
    ):
        raise ModelError("quantization_config has no usable config_groups; write the checkpoint again")
    schemes: dict[str, LinearSpec] = {}
    for place, group in groups.items():
        _refuse_extras(group, place)
        layout = group.get("format") or config.get("format")
        if layout != LAYOUT:
            raise UnsupportedError(
                f"{place} is stored as {layout!r}; omniq reads {LAYOUT!r}, so convert the checkpoint first"
            )
        spec = _spec(group, place)
        schemes |= dict.fromkeys(_strings(group.get("targets"), f"{place}: targets"), spec)
    return schemes


def _refuse_extras(values: Mapping[str, Any], place: str) -> None:
    for key in UNUSED:
        if values.get(key):
            raise UnsupportedError(
                f"{place} asks for {key}, which omniq does not compute; load this checkpoint with transformers or vLLM"
            )


def _strings(values: Any, place: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{place} must be a list of names, got {values!r}")
    return tuple(values)


def _target(name: str, targets: tuple[str, ...]) -> str | None:
    """The target that decides for the linear `name`, or None."""
    if name in targets:
        return name
    matching = (target for target in sorted(targets) if target.startswith("re:") and _matches(target[3:], name))
    return next(matching, CLASS if CLASS in targets else None)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error as error:
        raise ModelError(
            f"quantization_config has the regular expression {pattern!r}, which is not valid: {error}"
        ) from None


def _spec(group: Mapping[str, Any], place: str) -> LinearSpec:
    """One config group -> LinearSpec."""
    acts = group.get("input_activations")
    return LinearSpec(
        _weight_spec(group.get("weights"), f"{place}: weights"), acts and _act_spec(acts, f"{place}: input_activations")
    )


def _weight_spec(values: Any, place: str) -> QuantSpec:
    _expect(values, place, WEIGHTS)
    symmetric, size = values.get("symmetric", True), values.get("group_size")
    size = -1 if values["strategy"] == "channel" else size
    if type(symmetric) is not bool or type(size) is not int or (size < 1 and size != -1):
        raise ModelError(
            f"{place}: symmetric is {symmetric!r} and group_size {size!r}; expected true or false, and a number from 1"
        )
    return QuantSpec(_bits(values, place), size, symmetric)


def _act_spec(values: Any, place: str) -> ActSpec:
    _expect(values, place, ACTIVATIONS)
    symmetric = values.get("symmetric", True)
    if type(symmetric) is not bool:
        raise ModelError(f"{place}: symmetric is {symmetric!r}; expected true or false")
    return ActSpec(_bits(values, place), symmetric)


def _expect(values: Any, place: str, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises unless every setting of `allowed` has one of its values."""
    if not isinstance(values, Mapping):
        raise UnsupportedError(f"{place} is {values!r}; omniq reads groups that quantise weights to integers")
    for key, choices in allowed.items():
        value = values.get(key, DEFAULTS.get(key))
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
            listed = " or ".join(map(repr, choices))
            raise UnsupportedError(
                f"{place}: {key} is {value!r}; omniq reads {listed}, so load this checkpoint with transformers or vLLM"
            )


def _bits(values: Mapping[str, Any], place: str) -> int:
    bits = values.get("num_bits", 8)
    if type(bits) is not int or not 2 <= bits <= 8:
        raise UnsupportedError(f"{place}: num_bits is {bits!r}; omniq reads 2 to 8")
    return bits
