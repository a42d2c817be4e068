"""The `quantization_config` of compressed-tensors: LinearSpecs to config groups, and back.

A config has groups of targets with one scheme each, and a list of what to ignore. A target or an ignored entry is a
module's full name, a regular expression after 're:', or a class name. For one module an exact name wins over an
expression, and an expression over a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.patterns import matches
from omniq.spec import ActSpec, LinearSpec, QuantSpec

METHOD = "compressed-tensors"
LAYOUT = "pack-quantized"
OMNIQ_LAYOUT = "omniq-pack-quantized"
"""The same tensors, for a model whose linears transform or clip their inputs. The library has no words for that and
reads past what it does not know, so it is given a layout it must refuse."""
RECORD = "omniq_linears"
"""Where such a model's specs stand in full, by name."""
PLAIN_LAYOUT = "int-quantized"
"""An int8 for each code; omniq writes it for embedding tables and output heads only."""
CLASS = "Linear"
HEAD = "lm_head"
EXPERTS = r"re:.*\.experts\.\d+\..*"
"""All experts of a model."""
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
        names.setdefault(spec.plain(), []).append(name)
    if reason := mixing_refusal(names, expand):
        raise UnsupportedError(f"{METHOD} {reason}")
    if len(names) > 1 and sum(EXPERTS in _targets(targets) for targets in names.values()) > 1:
        raise UnsupportedError(f"{METHOD} cannot give the experts of a model different schemes; use one for all")
    groups = {
        f"group_{index}": {"targets": [CLASS] if len(names) == 1 else _targets(targets), **scheme_entry(spec)}
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
    if special := {name: str(spec) for name, spec in linears.items() if spec != spec.plain()}:
        config |= {"format": OMNIQ_LAYOUT, RECORD: special}
        for group in groups.values():
            group["format"] = OMNIQ_LAYOUT
    if any((expand or not spec.weight.symmetric) and spec.input is None for spec in names):
        config["dequantize"] = True
    return config


def mixing_refusal(specs: Iterable[LinearSpec], expand: bool) -> str | None:
    """Why a model with all of these specs cannot be said in one config, or None.

    transformers expands every weight of a checkpoint by the first group when it is asked to expand at all.
    """
    distinct = {spec.plain() for spec in specs}
    listed = ", ".join(sorted(map(str, distinct)))
    if len(distinct) > 1 and not all(spec.weight.symmetric for spec in distinct):
        return f"cannot mix schemes when one is asymmetric ({listed}); use symmetric weights"
    if len(distinct) > 1 and expand and any(spec.input is None for spec in distinct):
        return (
            f"cannot mix schemes ({listed}) in an architecture with a linear class of its own, since transformers "
            "expands all of them by one scheme; use the same bits everywhere"
        )
    return None


def _targets(names: Iterable[str]) -> list[str]:
    """The linears of one group among several: by name, and experts by an expression that holds for all of them.

    By such an expression transformers finds the one group that all experts of a model are in.
    """
    return list(dict.fromkeys(EXPERTS if matches(EXPERTS[3:], name) else name for name in names))


def scheme_entry(spec: LinearSpec) -> dict[str, Any]:
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
    schemes = schemes_by_target(config)
    ignored = strings(config.get("ignore") or [], "ignore")
    found = {}
    for name in names:
        target = decisive_target(name, tuple(schemes))
        if target is not None and decisive_target(name, ignored) is None:
            found[name], _ = schemes[target]
    return found | _recorded(config, found)


def _recorded(config: Mapping[str, Any], plain: Mapping[str, LinearSpec]) -> dict[str, LinearSpec]:
    """The specs that only omniq's own record can say; they must agree with the config groups in all that those say."""
    record = config.get(RECORD) or {}
    if not isinstance(record, Mapping) or not all(isinstance(text, str) for text in record.values()):
        raise ModelError(f"{RECORD} in quantization_config must be a mapping of names to schemes, got {record!r}")
    specs = {name: LinearSpec.parse(text) for name, text in record.items()}
    wrong = next((name for name, spec in specs.items() if plain.get(name) != spec.plain()), None)
    if wrong is not None:
        raise ModelError(
            f"{RECORD} in quantization_config gives {wrong} as {record[wrong]}, which its config group does not; "
            "config.json was changed or is of another model"
        )
    return specs


def schemes_by_target(config: Mapping[str, Any]) -> dict[str, tuple[LinearSpec, str]]:
    """target -> spec and layout, with everything that omniq does not compute refused by name."""
    _refuse_extras(config, "quantization_config")
    sparsity = config.get("sparsity_config")
    if sparsity and (not isinstance(sparsity, Mapping) or sparsity.get("format") not in (None, "dense")):
        raise UnsupportedError(f"sparse checkpoints ({sparsity!r}) are not supported; use a dense one")
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
    schemes: dict[str, tuple[LinearSpec, str]] = {}
    for place, group in groups.items():
        _refuse_extras(group, place)
        layout = group.get("format") or config.get("format")
        if layout not in (LAYOUT, OMNIQ_LAYOUT, PLAIN_LAYOUT):
            raise UnsupportedError(
                f"{place} is stored as {layout!r}; omniq reads {LAYOUT!r}, so convert the checkpoint first"
            )
        spec = _spec(group, place)
        schemes |= dict.fromkeys(strings(group.get("targets"), f"{place}: targets"), (spec, layout))
    return schemes


def _refuse_extras(values: Mapping[str, Any], place: str) -> None:
    for key in UNUSED:
        if values.get(key):
            raise UnsupportedError(
                f"{place} asks for {key}, which omniq does not compute; load this checkpoint with transformers or vLLM"
            )


def strings(values: Any, place: str) -> tuple[str, ...]:
    """A list of names from a config, checked. place: for the error."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{place} must be a list of names, got {values!r}")
    return tuple(values)


def decisive_target(name: str, targets: tuple[str, ...], kind: str = CLASS) -> str | None:
    """The target that decides for the module `name` of class `kind`, or None."""
    if name in targets:
        return name
    matching = (target for target in sorted(targets) if target.startswith("re:") and matches(target[3:], name))
    return next(matching, kind if kind in targets else None)


def _spec(group: Mapping[str, Any], place: str) -> LinearSpec:
    """One config group -> LinearSpec."""
    acts = group.get("input_activations")
    spec = LinearSpec(_weight_spec(group.get("weights"), f"{place}: weights"))
    return spec if acts is None else replace(spec, input=_act_spec(acts, f"{place}: input_activations"))


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
