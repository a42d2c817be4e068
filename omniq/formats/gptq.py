"""GPTQ: what GPTQ tools write, in both conventions of zero points.

For a weight (N, K) with G groups: qweight (ceil(K * bits / 32), N) int32, a dense bit stream of the codes along K;
qzeros (G, ceil(N * bits / 32)) int32, the zero points packed along N; scales (G, N); g_idx (K,) int32, the group of
every input, read in any order and written in the plain one. Version 1 ("gptq") stores zero points less one, version 2
("gptq_v2") as they are. A zero point of 0 has no place in version 1: the subtraction borrows from its neighbour, and
readers differ in what they make of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError, UsageError
from omniq.formats import gptq_config
from omniq.formats.base import FORMATS
from omniq.formats.bitpack import WORD_BITS, pack_bits, unpack_bits, words_for
from omniq.formats.checks import check_leaves, check_tensor, on_cpu, weights_only
from omniq.formats.float16 import SCALE_DTYPES, loadable
from omniq.formats.gptq_config import BITS, V1, V2
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
"""What gptqmodel 7.6 has kernels for."""
MULTIPLE = 32
"""Of N and K: below it the words of a row, or those of the zero points, would not be whole at 3 bits, and GPU kernels
of every loader ask for it at all widths."""
LEAVES = ("qweight", "qzeros", "scales", "g_idx")


class Gptq:
    """GPTQ in one of its two versions."""

    tables = None
    dense_unsaid = True
    needs = ("gptqmodel", "optimum")

    def __init__(self, layout: str) -> None:
        """layout: V1 or V2."""
        self.layout = layout
        others = ", vLLM, SGLang" if layout == V1 else ""
        self.loaders = f"transformers (with gptqmodel and optimum), gptqmodel{others}, omniq"

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
        if weight.bits not in BITS:
            return f"it has {', '.join(map(str, BITS))} bits; use one of these, or --format compressed-tensors"
        if weight.group_size not in GROUPS:
            listed = ", ".join(map(str, GROUPS))
            return f"its loaders read groups of {listed}; use one of these, or --format compressed-tensors"
        if n % MULTIPLE or k % MULTIPLE or n < 1:
            return f"its loaders read shapes that are multiples of {MULTIPLE}; use --format compressed-tensors"
        if self.layout == V1 and not weight.symmetric:
            return (
                "its version 1 stores zero points less one and so has none that is 0; use symmetric weights, "
                f"--format {V2}{', --format awq' if weight.bits == 4 else ''} or --format compressed-tensors"
            )
        return None

    def refuse_mixed(self, specs: Iterable[LinearSpec], expand: bool) -> str | None:
        """Why linears with all of these specs cannot stand in one checkpoint, or None."""
        return gptq_config.mixing_refusal(specs)

    def loaded_by(self, spec: LinearSpec, experts: bool = False, own: bool = False) -> tuple[str, ...]:
        """The runtimes that load this spec, one sentence each."""
        where = on_cpu(spec.weight)
        known = f"gptqmodel: yes, for the architectures that it knows{where}."
        return (_transformers(experts, own, where), known, *self._servers(spec.weight), "omniq: yes.")

    def _servers(self, weight: QuantSpec) -> tuple[str, str]:
        names = ("vLLM", "SGLang")
        if self.layout == V2 and weight.symmetric and weight.bits in (4, 8):
            # A symmetric zero point is never read, so the two versions are one to a server that does not ask for it.
            said = "unlikely to refuse it, but only version 1 is documented; --format gptq loads (not run)."
        elif self.layout == V2:
            said = (
                "no, it reads version 1 of GPTQ; --format gptq or compressed-tensors loads (from its source; not run)."
            )
        elif weight.bits not in (4, 8):
            said = f"no, it reads GPTQ of 4 and 8 bits only, not {weight.bits} (from its source; not run)."
        elif weight.group_size not in (-1, 32, 64, 128):
            said = f"unlikely, its kernels want groups of 32, 64, 128 or whole channels, not {weight.group_size}."
        else:
            said = "yes (from its source; not run)."
        return tuple(f"{name}: {said}" for name in names)

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names that pack() gives for this spec."""
        return LEAVES

    def readable(self, spec: LinearSpec, has: Callable[[str], bool]) -> tuple[str, ...]:
        """The leaf names that unpack() wants of a stored layer: a trivial g_idx may be left out."""
        return LEAVES if has("g_idx") else LEAVES[:3]

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor -> tensors by leaf name; scales that are float16 or bfloat16 keep their dtype."""
        spec, (n, k) = q.spec, q.shape
        if reason := self.refuse(LinearSpec(spec), q.shape):
            raise UnsupportedError(f"format {self.layout!r} cannot store a weight {[n, k]} as {spec}: {reason}")
        zeros = q.zeros - 1 if self.layout == V1 else q.zeros
        return {
            "qweight": pack_bits(q.codes, spec.bits).T.contiguous(),
            "qzeros": pack_bits(zeros.T.contiguous(), spec.bits),
            "scales": loadable(q.scales, self.layout).T.contiguous(),
            "g_idx": groups_in_order(k, spec),
        }

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack; ModelError when a tensor does not fit a weight of `shape` (N, K)."""
        weight, (n, k) = spec.weight, shape
        try:
            groups = weight.groups(k)
        except UsageError as error:
            raise ModelError(f"{error}; config.json is of another model") from None
        check_leaves(tensors, self.readable(spec, tensors.__contains__), spec)
        check_tensor(tensors, "qweight", (words_for(k, weight.bits), n), (torch.int32,), weight)
        check_tensor(tensors, "qzeros", (groups, words_for(n, weight.bits)), (torch.int32,), weight)
        check_tensor(tensors, "scales", (groups, n), (*SCALE_DTYPES, torch.float32), weight)
        order = _order(tensors, weight, k) if "g_idx" in tensors else None
        codes = unpack_bits(tensors["qweight"].T.contiguous(), weight.bits, k)
        codes = codes if order is None else codes.index_select(1, order)
        zeros = self._zeros(tensors["qzeros"], weight, n)
        if weight.symmetric and not (zeros == weight.mid).all():
            raise ModelError(
                f"config.json says that zero points are {weight.mid} everywhere (sym), but qzeros has others in layout "
                f"{self.layout!r}; checkpoint_format or sym is wrong, so copy config.json again"
            )
        return QTensor(codes, tensors["scales"].T.contiguous(), zeros, weight, order)

    def _zeros(self, words: Tensor, spec: QuantSpec, n: int) -> Tensor:
        """qzeros (G, W) -> zero points (N, G) uint8."""
        if self.layout == V1 and WORD_BITS % spec.bits == 0:
            words = _increased(words, spec.bits)
        zeros = unpack_bits(words, spec.bits, n).T.contiguous()
        return zeros + 1 & spec.qmax if self.layout == V1 and WORD_BITS % spec.bits else zeros

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry for these linears; `ignore` and lm_head stay in floating point."""
        return gptq_config.quantization_config(linears, ignore, self.layout)

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """Spec by name for those of `names` that the config says are quantised; None: another format's config."""
        layout = gptq_config.layout_of(config)
        if layout == self.layout:
            return gptq_config.specs_by_name(config, names)
        if layout in (None, V1, V2):
            return None
        raise UnsupportedError(f"GPTQ in the layout {layout!r} is not read; omniq reads {V1!r} and {V2!r}")


def groups_in_order(k: int, spec: QuantSpec) -> Tensor:
    """g_idx (K,) int32 of groups of neighbours."""
    return torch.arange(k, dtype=torch.int32) // spec.width(k)


def _order(tensors: Mapping[str, Tensor], spec: QuantSpec, k: int) -> Tensor | None:
    """The inputs (K,) int64 group by group, where g_idx says that groups are not of neighbours (desc_act)."""
    check_tensor(tensors, "g_idx", (k,), (torch.int32, torch.int64), spec)
    group, plain = tensors["g_idx"].to(torch.int32), groups_in_order(k, spec)
    if torch.equal(group, plain):
        return None
    order = group.argsort(stable=True)
    if not torch.equal(group[order], plain):
        raise ModelError(
            f"g_idx does not give every one of the {spec.groups(k)} groups {spec.width(k)} of the {k} inputs; the file "
            "is damaged, or its groups have different sizes, which omniq does not read"
        )
    return order


def _increased(words: Tensor, bits: int) -> Tensor:
    """words (G, W) int32 plus one in every field, added to whole words as gptqmodel does.

    Its writer subtracts so, and a zero point of 0 then borrows from the field above; this carries it back.
    """
    ones = sum(1 << place for place in range(0, WORD_BITS, bits))
    return ((words.to(torch.int64) + ones + 2**31) % 2**32 - 2**31).to(torch.int32)


def _transformers(experts: bool, own: bool, where: str) -> str:
    if experts:
        return (
            "transformers: no, it keeps the experts of a layer in one tensor and would leave them at random values "
            "without an error; --format compressed-tensors loads."
        )
    if own:
        return (
            "transformers: no, this architecture has a linear class of its own, which its GPTQ loader passes over, so "
            "weights would stay random without an error; --format compressed-tensors loads."
        )
    return f"transformers (with gptqmodel and optimum): yes, in float16 or bfloat16{where}."


FORMATS.add("gptq")(Gptq(V1))
FORMATS.add("gptq_v2")(Gptq(V2))
