"""auto-round's own format: GPTQ's words with zero points as they are and no g_idx.

auto-round also writes GPTQ's words of version 1 and AWQ's under its name ("packing_format"). Both are read: AWQ's are
known by their shape, and version 1, which it writes for symmetric weights only, by zero points that are all one less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.awq import Awq
from omniq.formats.base import FORMATS
from omniq.formats.checks import group_size, setting, weights_only
from omniq.formats.gptq import Gptq
from omniq.formats.gptq_config import BITS, V1, V2, mixing_refusal
from omniq.qtensor import QTensor
from omniq.spec import FLOAT_BITS, LinearSpec, QuantSpec

METHOD, HEAD = "auto-round", "lm_head"
OWN, GPTQ, AWQ = "auto_round", "auto_round:auto_gptq", "auto_round:auto_awq"
LEAVES = ("qweight", "qzeros", "scales")
GROUPS = (-1, 16, 32, 64, 128, 256)
EXCEPTIONS = "extra_config"


class AutoRound:
    """What auto-round loads, and transformers, vLLM and SGLang with it or by themselves."""

    tables = None
    dense_unsaid = True
    needs = ("auto-round",)
    loaders = "transformers (with auto-round), vLLM, SGLang, omniq"

    def __init__(self) -> None:
        self.first, self.second, self.awq = Gptq(V1), Gptq(V2), Awq()

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of scales in a model of `dtype`: float16 in any."""
        return torch.float16

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        """Why a layer of shape (N, K) cannot be stored, or None."""
        if reason := weights_only(spec) or self.second.refuse(spec, shape):
            return reason
        if spec.weight.group_size not in GROUPS:
            return f"its loaders read groups of {', '.join(map(str, GROUPS))}; use --format compressed-tensors"
        return None

    def refuse_mixed(self, specs: Iterable[LinearSpec], expand: bool) -> str | None:
        """Why linears with all of these specs cannot stand in one checkpoint, or None."""
        return mixing_refusal(specs)

    def loaded_by(self, spec: LinearSpec, experts: bool = False, own: bool = False) -> tuple[str, ...]:
        """The runtimes that load this spec, one sentence each."""
        first = "transformers (with auto-round): yes, in float16 or bfloat16."
        if experts or own:
            first = "transformers: unlikely, modules that are no plain linear were not tried with auto-round."
        served = [f"{name}: yes (from its documentation; not run)." for name in ("vLLM", "SGLang")]
        return (first, *served, "omniq: yes.")

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names that pack() gives for this spec."""
        return LEAVES

    def readable(self, spec: LinearSpec, has: Callable[[str], bool]) -> tuple[str, ...]:
        """The leaf names that unpack() wants of a stored layer."""
        return LEAVES

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor -> tensors by leaf name; scales that are float16 or bfloat16 keep their dtype."""
        return {leaf: tensor for leaf, tensor in self.second.pack(q).items() if leaf in LEAVES}

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack, and of auto-round's other packings; ModelError when a tensor does not fit (N, K)."""
        weight, words = spec.weight, tensors.get("qweight")
        if words is not None and weight.bits == 4 and words.shape[:1] == (shape[1],):
            return self.awq.unpack(tensors, spec, shape)
        try:
            return self.second.unpack(tensors, spec, shape)
        except ModelError:
            if not weight.symmetric:
                raise
            return self.first.unpack(tensors, spec, shape)

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry for these linears; `ignore` and the head stay in floating point."""
        specs = set(linears.values())
        if reason := mixing_refusal(specs):
            raise UnsupportedError(f"{METHOD} {reason}")
        weight = next(iter(specs)).weight
        config = {
            "quant_method": METHOD,
            "packing_format": OWN,
            "bits": weight.bits,
            "group_size": weight.group_size,
            "sym": weight.symmetric,
            "data_type": "int",
        }
        dense = {name: {"bits": FLOAT_BITS} for name in dict.fromkeys(ignore) if name != HEAD}
        return config | ({EXCEPTIONS: dense} if dense else {})

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """Spec by name for those of `names` that the config says are quantised; None: another format's config."""
        if config.get("quant_method") != METHOD:
            return None
        exceptions = config.get(EXCEPTIONS) or {}
        if not isinstance(exceptions, Mapping) or not all(isinstance(v, Mapping) for v in exceptions.values()):
            raise ModelError(f"quantization_config: {EXCEPTIONS} is {exceptions!r}; expected names and their settings")
        specs = {name: _spec({**config, **exceptions.get(name, {})}) for name in names if name != HEAD}
        return {name: spec for name, spec in specs.items() if spec is not None}


def _spec(values: Mapping[str, Any]) -> LinearSpec | None:
    """The spec that settings of a layer give, None for one that stays in floating point."""
    bits = setting(values, "bits", int, 4)
    if bits >= FLOAT_BITS:
        return None
    packing, symmetric = setting(values, "packing_format", str, OWN), setting(values, "sym", bool, True)
    kind, acts = setting(values, "data_type", str, "int"), setting(values, "act_bits", int, FLOAT_BITS)
    if packing not in (OWN, GPTQ, AWQ) or kind != "int" or acts < FLOAT_BITS:
        raise UnsupportedError(
            f"auto-round's packing {packing!r} of {kind!r} numbers with activations of {acts} bits is not read; omniq "
            f"reads {OWN!r}, {GPTQ!r} and {AWQ!r} of 'int' weights alone"
        )
    if bits not in BITS or (packing == GPTQ and not symmetric):
        raise UnsupportedError(
            f"auto-round's packing {packing!r} of {bits} bits, {'' if symmetric else 'a'}symmetric, is not read; omniq "
            f"reads {', '.join(map(str, BITS))} bits, and {GPTQ!r} of symmetric weights"
        )
    return LinearSpec(QuantSpec(bits, group_size(values), symmetric))


FORMATS.add("auto-round")(AutoRound())
