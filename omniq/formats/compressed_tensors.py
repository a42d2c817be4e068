"""compressed-tensors `pack-quantized`, in the dense layout that the library writes since version 0.18.

Read as well: the layout before that, where no code reaches into the next word (it differs at 3, 5, 6 and 7 bits, and is
known by its width; up to 160 inputs the widths can be the same, and are then taken for the present layout), and linears
in `int-quantized`, one int8 a code.

For a weight (N, K) with G groups: weight_packed (N, ceil(K * bits / 32)) int32, a dense bit stream of the codes along
K; weight_scale (N, G); weight_shape (2,) int64 = [N, K]; and, asymmetric only, weight_zero_point
(ceil(N * bits / 32), G) int32, the zero points packed along N. The library speaks of signed integers q, z and stores
q + 2**(bits-1): exactly our unsigned codes and zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.errors import ModelError, UsageError
from omniq.formats.base import FORMATS
from omniq.formats.bitpack import pack_bits, padded_words_for, unpack_bits, unpack_padded, words_for
from omniq.formats.checks import check_leaves, check_tensor
from omniq.formats.ct_config import mixing_refusal, quantization_config, specs_by_name
from omniq.formats.ct_plain import plain_leaves, unpack_plain
from omniq.formats.ct_tables import CompressedTables
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MARLIN_GROUPS = (-1, 32, 64, 128)


class CompressedTensors:
    """What plain transformers, vLLM and SGLang load without omniq."""

    loaders = "transformers (with compressed-tensors), vLLM, SGLang, omniq"
    needs = ("compressed-tensors",)
    dense_unsaid = False

    def __init__(self) -> None:
        self.tables = CompressedTables(self)

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of scales in a model of `dtype`: the same."""
        return dtype

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        """Why a layer of shape (N, K) cannot be stored, or None."""
        n, k = shape
        if n < 1 or k < 1:
            return f"a weight of shape {shape} is empty"
        try:
            spec.weight.width(k)
        except UsageError as error:
            return str(error)
        return None

    def refuse_mixed(self, specs: Iterable[LinearSpec], expand: bool) -> str | None:
        """Why linears with all of these specs cannot stand in one checkpoint, or None."""
        return mixing_refusal(specs, expand)

    def loaded_by(self, spec: LinearSpec, experts: bool = False, own: bool = False) -> tuple[str, ...]:
        """The runtimes that load this spec, one sentence each."""
        if spec != spec.plain():
            return (_not_elsewhere(spec), "omniq: yes.")
        return (_transformers(spec), _vllm(spec), _sglang(spec), "omniq: yes.")

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names that pack() gives for this spec."""
        zeros = () if spec.weight.symmetric else ("weight_zero_point",)
        return ("weight_packed", "weight_scale", "weight_shape", *zeros)

    def readable(self, spec: LinearSpec, has: Callable[[str], bool]) -> tuple[str, ...]:
        """The leaf names that unpack() wants of a stored layer, which may be in either layout."""
        plain = has("weight") and not has("weight_packed")
        return plain_leaves(spec.weight) if plain else self.leaves(spec)

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor -> tensors by leaf name; scales keep their dtype."""
        bits = q.spec.bits
        tensors = {
            "weight_packed": pack_bits(q.codes, bits),
            "weight_scale": q.scales.contiguous(),
            "weight_shape": torch.tensor(q.shape, dtype=torch.int64),
        }
        if not q.spec.symmetric:
            tensors["weight_zero_point"] = pack_bits(q.zeros.T.contiguous(), bits).T.contiguous()
        return tensors

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack; ModelError when a tensor does not fit a weight of `shape` (N, K)."""
        weight, (n, k) = spec.weight, shape
        if reason := self.refuse(spec, shape):
            raise ModelError(f"{reason}; config.json is of another model")
        if "weight" in tensors:
            return unpack_plain(tensors, spec, shape)
        groups = weight.groups(k)
        check_leaves(tensors, self.leaves(spec), spec)
        padded = (
            tensors["weight_packed"].shape == (n, padded_words_for(k, weight.bits)) != (n, words_for(k, weight.bits))
        )
        width, read = (padded_words_for, unpack_padded) if padded else (words_for, unpack_bits)
        check_tensor(tensors, "weight_packed", (n, width(k, weight.bits)), (torch.int32,), weight)
        check_tensor(tensors, "weight_scale", (n, groups), SCALE_DTYPES, weight)
        check_tensor(tensors, "weight_shape", (2,), (torch.int64, torch.int32), weight)
        stored = tensors["weight_shape"].tolist()
        if stored != [n, k]:
            raise ModelError(f"weight_shape is {stored}, but the layer is {[n, k]}; the weights are of another model")
        zeros = torch.full((n, groups), weight.mid, dtype=torch.uint8)
        if not weight.symmetric:
            check_tensor(tensors, "weight_zero_point", (width(n, weight.bits), groups), (torch.int32,), weight)
            zeros = read(tensors["weight_zero_point"].T.contiguous(), weight.bits, n).T.contiguous()
        return QTensor(read(tensors["weight_packed"], weight.bits, k), tensors["weight_scale"], zeros, weight)

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry for these linears; `ignore` and lm_head stay in floating point."""
        return quantization_config(linears, ignore, expand)

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """Spec by name for those of `names` that the config says are quantised; None: another format's config."""
        return specs_by_name(config, names)


def _not_elsewhere(spec: LinearSpec) -> str:
    what = "transforms its inputs" if spec.transform else "clips its activations"
    return (
        f"transformers, vLLM, SGLang: no (a layer {what} at run time, which only omniq.load computes; transformers "
        "ends with an error about the config)."
    )


def _transformers(spec: LinearSpec) -> str:
    if not spec.weight.symmetric and spec.input is not None:
        return (
            "transformers: no, loading ends with an error (it does not read asymmetric weights together with quantised "
            "activations); symmetric weights load."
        )
    when = "at the first forward pass" if spec.weight.symmetric else "while loading"
    # Measured with compressed-tensors 0.20: an input of two dimensions gets one scale, not one per row.
    flat = "; where a model flattens its tokens (the MLP of OPT) they share one activation scale" if spec.input else ""
    return (
        "transformers (5.13 or later, with compressed-tensors 0.18 or later): yes; the weights are expanded to full "
        f"precision in memory {when}{flat}."
    )


def _vllm(spec: LinearSpec) -> str:
    """From the kernels that vLLM 0.33 chooses by its own code, which benchmarks/serving_check.py asks."""
    weight = spec.weight
    types = (4, 8) if weight.symmetric else (4,)
    marlin = weight.bits in types and weight.group_size in MARLIN_GROUPS
    if spec.input is not None:
        if spec.input.bits not in (4, 8) or not spec.input.symmetric:
            return "vLLM: no, it serves activations of 4 or 8 bits, symmetric, only."
        if marlin:
            return (
                "vLLM: yes, 0.33 or later, but it takes a kernel that leaves activations in floating point "
                "(by its code; not run)."
            )
    if marlin:
        return "vLLM: yes (by its code; not run)."
    if weight.bits == 4 and weight.group_size != -1 and spec.input is None:
        return "vLLM: yes, 0.33 or later, with a slower kernel for these groups (by its code; not run)."
    return "vLLM: yes, 0.33 or later, on its Humming kernels (by its code; not run)."


def _sglang(spec: LinearSpec) -> str:
    if spec.input is not None:
        return "SGLang: no, it reads this layout with floating-point activations only."
    if spec.weight.bits not in (4, 8):
        return f"SGLang: no, it reads 4 and 8 bits only, not {spec.weight.bits}."
    if spec.weight.group_size not in MARLIN_GROUPS:
        return (
            f"SGLang: unlikely, its kernels want groups of 32, 64, 128 or whole channels, not {spec.weight.group_size}."
        )
    return "SGLang: yes (from its source; not run)."


FORMATS.add("compressed-tensors")(CompressedTensors())
