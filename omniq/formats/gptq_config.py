"""The `quantization_config` of GPTQ: one LinearSpec for every linear of the blocks, and back.

gptqmodel knows exceptions by name ("dynamic": regular expressions, "-:" before one that is left in floating point),
which vLLM reads too. transformers ignores them; it reads a list of what is quantised inside a block, and one grid for
all. So exceptions that leave a linear out are written both ways, and different grids are refused. Checkpoints made by
gptqmodel may have them, and are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.checks import group_size, refuse_settings, setting
from omniq.formats.patterns import matches
from omniq.spec import LinearSpec, QuantSpec

METHOD, V1, V2 = "gptq", "gptq", "gptq_v2"
BITS = (2, 3, 4, 8)
HEAD = "lm_head"
INCLUDED = "modules_in_block_to_quantize"
UNUSED = ("adapter", "rotation", "is_marlin_format")
GRID = ("bits", "group_size", "sym")


def quantization_config(linears: Mapping[str, LinearSpec], ignore: Iterable[str], layout: str) -> dict[str, Any]:
    """linears: spec by full module name, all of one spec; ignore: linears left in floating point. layout: V1 or V2."""
    specs = set(linears.values())
    if len(specs) > 1:
        raise UnsupportedError(mixing_refusal(specs))
    weight = next(iter(specs)).weight
    config = {
        "quant_method": METHOD,
        "checkpoint_format": layout,
        "bits": weight.bits,
        "group_size": weight.group_size,
        "sym": weight.symmetric,
        "desc_act": False,
        "lm_head": False,
    }
    dense = _inside_blocks(ignore, linears)
    if not dense:
        return config
    if not any(".experts." in name for name in linears):
        config[INCLUDED] = [_shortest(linears, dense)]
    return config | {"dynamic": {f"-:.*{pattern}$": {} for pattern in _patterns(dense, linears)}}


def mixing_refusal(specs: Iterable[LinearSpec]) -> str | None:
    """Why linears with all of these specs cannot stand in one checkpoint, or None."""
    distinct = sorted({str(spec) for spec in specs})
    if len(distinct) < 2:
        return None
    return f"cannot mix schemes ({', '.join(distinct)}): transformers and vLLM read one grid for all linears of a model"


def layout_of(config: Mapping[str, Any]) -> str | None:
    """The layout that a config gives, or None when it is another method's."""
    if config.get("quant_method") != METHOD:
        return None
    given = {setting(config, key, str, V1).lower() for key in ("checkpoint_format", "format") if config.get(key)}
    if len(given) > 1:
        raise ModelError(
            f"quantization_config: checkpoint_format is {config['checkpoint_format']!r} and format "
            f"{config['format']!r}; they must be the same, so config.json is damaged"
        )
    return given.pop() if given else V1


def specs_by_name(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec]:
    """Spec by name for those of `names` that a config of this method quantises."""
    refuse_settings(config, UNUSED, METHOD)
    if setting(config, "lm_head", bool, False):
        raise UnsupportedError(f"a GPTQ checkpoint whose {HEAD} is quantised is not read; take one made without")
    if (words := str(config.get("pack_dtype") or "int32").removeprefix("torch.")) != "int32":
        raise UnsupportedError(f"GPTQ codes packed in {words} words are not read; omniq reads int32 words")
    included = _included(config)
    found = {}
    for name in names:
        if name == HEAD or (included and not any(name.endswith(suffix) for suffix in included)):
            continue
        changes = _exception(config, name)
        if changes is not None:
            found[name] = _spec({**config, **changes}, name)
    return found


def _spec(values: Mapping[str, Any], name: str) -> LinearSpec:
    bits = setting(values, "bits", int, 4)
    if bits not in BITS:
        raise UnsupportedError(f"{name} has {bits} bits; omniq reads GPTQ of {', '.join(map(str, BITS))} bits")
    return LinearSpec(QuantSpec(bits, group_size(values), setting(values, "sym", bool, True)))


def _included(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Ends of the names that are quantised; empty: all are."""
    lists = config.get(INCLUDED) or []
    try:
        names = [name for part in lists for name in ([part] if isinstance(part, str) else part)]
    except TypeError:
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise ModelError(f"quantization_config: {INCLUDED} is {lists!r}; expected lists of names")
    return tuple(names)


def _exception(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What the first matching entry of "dynamic" changes for a linear; None: it stays in floating point."""
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping) or not all(isinstance(v, Mapping) for v in dynamic.values()):
        raise ModelError(f"quantization_config: dynamic is {dynamic!r}; expected a mapping of names to settings")
    for pattern, changes in dynamic.items():
        found = matches(pattern.removeprefix("-:").removeprefix("+:"), name)
        if found and pattern.startswith("-:"):
            return None
        if found:
            refuse_settings(changes, ("method", "quant_method", "format", "checkpoint_format", *UNUSED), METHOD)
            return {key: changes[key] for key in GRID if key in changes}
    return {}


def _inside_blocks(ignore: Iterable[str], linears: Iterable[str]) -> list[str]:
    """Those of `ignore` that lie in the blocks; what lies outside, such as the head, no loader expects quantised."""
    blocks = {_split(name)[0] for name in linears}
    return [name for name in ignore if _split(name)[0] in blocks and _split(name)[1] != name]


def _split(name: str) -> tuple[str, str]:
    """'model.layers.3.mlp.up_proj' -> ('model.layers.', 'mlp.up_proj'); a name without a number stays whole."""
    match = re.match(r"(.*?\.)\d+\.(.*)", name)
    return (match[1], match[2]) if match else ("", name)


def _shortest(linears: Iterable[str], dense: Iterable[str]) -> list[str]:
    """Ends of names by which all linears and none of `dense` are found."""
    ends = list(dict.fromkeys(_split(name)[1] for name in linears))
    return list(linears) if any(name.endswith(tuple(ends)) for name in dense) else ends


def _patterns(dense: Iterable[str], linears: Iterable[str]) -> list[str]:
    """Regular expressions that find all of `dense`, for any number in a name where that finds no linear."""
    found = []
    for name in dense:
        general = re.sub(r"\d+", r"\\d+", re.escape(name))
        clash = any(re.fullmatch(general, linear) for linear in linears)
        found.append(re.escape(name) if clash else general)
    return list(dict.fromkeys(found))
