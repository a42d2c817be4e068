"""AWQ in the layout of its GEMM kernels ("gemm"), 4 bits.

For a weight (N, K) with G groups: qweight (K, N / 8) int32, the codes of eight neighbouring outputs in a word; qzeros
(G, N / 8) int32, their zero points likewise; scales (G, N). Inside a word the outputs lie in the order
0, 2, 4, 6, 1, 3, 5, 7, from the lowest four bits up. Symmetric weights are stored with zero points of 8, and as weights
that have zero points, since that is what loaders have fast kernels for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError, UsageError
from omniq.formats.base import FORMATS
from omniq.formats.bitpack import pack_bits, unpack_bits
from omniq.formats.checks import check_leaves, check_tensor, group_size, on_cpu, setting, weights_only
from omniq.formats.float16 import SCALE_DTYPES, loadable
from omniq.formats.patterns import matches
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

METHOD, VERSION, HEAD = "awq", "gemm", "lm_head"
BITS = 4
GROUPS = (-1, 16, 32, 64, 128)
"""What gptqmodel 7.6 has kernels for."""
SERVED = (-1, 32, 64, 128)
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
LEAVES = ("qweight", "qzeros", "scales")
RECORD = "omniq_symmetric"
"""Where it stands that all zero points are 8, which the format has no word for that every loader likes."""


class Awq:
    """AWQ, as autoawq and gptqmodel store it."""

    tables = None
    dense_unsaid = True
    needs = ("gptqmodel", "accelerate")
    loaders = "transformers (with gptqmodel), gptqmodel, vLLM, SGLang, omniq"

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of scales in a model of `dtype`: float16 in any."""
        return torch.float16

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        """Why a layer of shape (N, K) cannot be stored, or None."""
        n, k = shape
        weight = spec.weight
        if reason := weights_only(spec):
            return reason
        try:
            weight.width(k)
        except UsageError as error:
            return str(error)
        if weight.bits != BITS:
            return f"it has {BITS} bits only; use --wbits {BITS}, or --format gptq or compressed-tensors"
        if weight.group_size not in GROUPS:
            listed = ", ".join(map(str, GROUPS))
            return f"its loaders read groups of {listed}; use one of these, or --format compressed-tensors"
        if n % len(ORDER) or n < 1:
            return f"it packs {len(ORDER)} outputs to a word, and {n} is no multiple; use --format compressed-tensors"
        return None

    def refuse_mixed(self, specs: Iterable[LinearSpec], expand: bool) -> str | None:
        """Why linears with all of these specs cannot stand in one checkpoint, or None."""
        distinct = sorted({str(spec) for spec in specs})
        return f"has one scheme for all linears, not {', '.join(distinct)}" if len(distinct) > 1 else None

    def loaded_by(self, spec: LinearSpec, experts: bool = False, own: bool = False) -> tuple[str, ...]:
        """The runtimes that load this spec, one sentence each."""
        size = spec.weight.group_size
        said = "yes (from its source; not run)."
        if size not in SERVED:
            said = f"unlikely, its kernels want groups of 32, 64, 128 or whole channels, not {size}."
        first = _transformers(experts, own, on_cpu(spec.weight))
        return (first, *(f"{name}: {said}" for name in ("vLLM", "SGLang")), "omniq: yes.")

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names that pack() gives for this spec."""
        return LEAVES

    def readable(self, spec: LinearSpec, has: Callable[[str], bool]) -> tuple[str, ...]:
        """The leaf names that unpack() wants of a stored layer."""
        return LEAVES

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor -> tensors by leaf name; scales that are float16 or bfloat16 keep their dtype."""
        if reason := self.refuse(LinearSpec(q.spec), q.shape):
            raise UnsupportedError(f"format {METHOD!r} cannot store a weight {list(q.shape)} as {q.spec}: {reason}")
        return {
            "qweight": _packed(q.codes),
            "qzeros": _packed(q.zeros),
            "scales": loadable(q.scales, METHOD).T.contiguous(),
        }

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack; ModelError when a tensor does not fit a weight of `shape` (N, K)."""
        weight, (n, k) = spec.weight, shape
        try:
            groups = weight.groups(k)
        except UsageError as error:
            raise ModelError(f"{error}; config.json is of another model") from None
        check_leaves(tensors, LEAVES, spec)
        words = -(-n // len(ORDER))
        check_tensor(tensors, "qweight", (k, words), (torch.int32,), weight)
        check_tensor(tensors, "qzeros", (groups, words), (torch.int32,), weight)
        check_tensor(tensors, "scales", (groups, n), (*SCALE_DTYPES, torch.float32), weight)
        zeros = _unpacked(tensors["qzeros"], n)
        if weight.symmetric and not (zeros == weight.mid).all():
            raise ModelError(
                f"config.json says that zero points are {weight.mid} everywhere, but qzeros has others; it was changed "
                "or is of another model"
            )
        return QTensor(_unpacked(tensors["qweight"], n), tensors["scales"].T.contiguous(), zeros, weight)

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry for these linears; `ignore` and lm_head stay in floating point."""
        specs = set(linears.values())
        if reason := self.refuse_mixed(specs, expand):
            raise UnsupportedError(f"{METHOD} {reason}")
        weight = next(iter(specs)).weight
        config = {
            "quant_method": METHOD,
            "version": VERSION,
            "bits": weight.bits,
            "group_size": weight.group_size,
            "zero_point": True,
            "modules_to_not_convert": list(dict.fromkeys((HEAD, *ignore))),
        }
        return config | ({RECORD: True} if weight.symmetric else {})

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """Spec by name for those of `names` that the config says are quantised; None: another format's config."""
        if config.get("quant_method") != METHOD:
            return None
        version = setting(config, "version" if config.get("version") else "format", str, VERSION).lower()
        if version != VERSION:
            raise UnsupportedError(f"AWQ in the layout {version!r} is not read; omniq reads {VERSION!r}")
        bits = setting(config, "bits" if config.get("bits") is not None else "w_bit", int, BITS)
        if bits != BITS:
            raise UnsupportedError(f"quantization_config: AWQ of {bits} bits is not read; omniq reads {BITS}")
        if setting(config, HEAD, bool, False):
            raise UnsupportedError(f"an AWQ checkpoint whose {HEAD} is quantised is not read; take one made without")
        size = group_size(config, "group_size" if config.get("group_size") is not None else "q_group_size")
        symmetric = setting(config, RECORD, bool, False) or not setting(config, "zero_point", bool, True)
        spec = LinearSpec(QuantSpec(bits, size, symmetric))
        dense = _names(config)
        return {name: spec for name in names if name != HEAD and not any(_covers(entry, name) for entry in dense)}


def _packed(values: Tensor) -> Tensor:
    """values (N, L) below 16 -> words (L, N / 8) int32."""
    columns = values.T.reshape(values.shape[1], -1, len(ORDER))
    return pack_bits(columns[..., list(ORDER)].contiguous(), BITS).squeeze(-1)


def _unpacked(words: Tensor, n: int) -> Tensor:
    """words (L, W) int32 -> values (N, L) uint8: the inverse of _packed."""
    columns = unpack_bits(words.unsqueeze(-1).contiguous(), BITS, len(ORDER))
    places = torch.tensor(ORDER).argsort()
    return columns[..., places].view(words.shape[0], -1)[:, :n].T.contiguous()


def _names(config: Mapping[str, Any]) -> list[str]:
    names = config.get("modules_to_not_convert") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"quantization_config: modules_to_not_convert is {names!r}; expected a list of names")
    return names


def _covers(entry: str, name: str) -> bool:
    """Whether transformers leaves `name` in floating point for an entry: a path above it, an expression, or its end."""
    return name.endswith(entry) or matches(rf"(?:{entry})(?:(?<=\.)|(?=\.|$))", name)


def _transformers(experts: bool, own: bool, where: str) -> str:
    if experts:
        return (
            "transformers: no, it keeps the experts of a layer in one tensor and would leave them at random values "
            "without an error; --format compressed-tensors loads."
        )
    if own:
        # Tried with falcon: transformers puts a scale before its activation, which it then does not find.
        return (
            "transformers: no, in this architecture it computes NaN without an error, since it looks for more tensors "
            "than AWQ needs; --format compressed-tensors loads."
        )
    return (
        "transformers (with gptqmodel): yes, in float16 or bfloat16, save for bloom, gptj, mpt and starcoder2, where "
        f"it looks for more tensors than AWQ needs{where}."
    )


FORMATS.add("awq")(Awq())
