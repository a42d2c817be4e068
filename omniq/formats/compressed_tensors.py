"""compressed-tensors `pack-quantized`, in the dense layout that the library writes since version 0.18.

For a weight (N, K) with G groups: weight_packed (N, ceil(K * bits / 32)) int32, a dense bit stream of the codes along
K; weight_scale (N, G); weight_shape (2,) int64 = [N, K]; and, asymmetric only, weight_zero_point
(ceil(N * bits / 32), G) int32, the zero points packed along N. The library speaks of signed integers q, z and stores
q + 2**(bits-1): exactly our unsigned codes and zero points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.errors import ModelError, UsageError
from omniq.formats.base import FORMATS
from omniq.formats.bitpack import pack_bits, unpack_bits, words_for
from omniq.formats.ct_config import mixing_refusal, quantization_config, specs_by_name
from omniq.formats.ct_tables import CompressedTables
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MARLIN_GROUPS = (-1, 32, 64, 128)


class CompressedTensors:
    """What plain transformers, vLLM and SGLang load without omniq."""

    loaders = "transformers (with compressed-tensors), vLLM, SGLang, omniq"

    def __init__(self) -> None:
        self.tables = CompressedTables(self)

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

    def loaded_by(self, spec: LinearSpec) -> tuple[str, ...]:
        """The runtimes that load this spec, one sentence each."""
        if spec != spec.plain():
            return (_not_elsewhere(spec), "omniq: yes.")
        return (_transformers(spec), _vllm(spec), _sglang(spec), "omniq: yes.")

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names that pack() gives for this spec."""
        zeros = () if spec.weight.symmetric else ("weight_zero_point",)
        return ("weight_packed", "weight_scale", "weight_shape", *zeros)

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
        groups = weight.groups(k)
        self._check_names(tensors, spec)
        _check(tensors, "weight_packed", (n, words_for(k, weight.bits)), (torch.int32,), weight)
        _check(tensors, "weight_scale", (n, groups), SCALE_DTYPES, weight)
        _check(tensors, "weight_shape", (2,), (torch.int64, torch.int32), weight)
        stored = tensors["weight_shape"].tolist()
        if stored != [n, k]:
            raise ModelError(f"weight_shape is {stored}, but the layer is {[n, k]}; the weights are of another model")
        if not torch.isfinite(tensors["weight_scale"]).all():
            raise ModelError(
                "weight_scale has NaN or infinite values; the checkpoint is damaged, so write or copy it again"
            )
        codes = unpack_bits(tensors["weight_packed"], weight.bits, k)
        return QTensor(codes, tensors["weight_scale"], self._zeros(tensors, weight, (n, groups)), weight)

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry for these linears; `ignore` and lm_head stay in floating point."""
        return quantization_config(linears, ignore, expand)

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """Spec by name for those of `names` that the config says are quantised; None: another format's config."""
        return specs_by_name(config, names)

    def _check_names(self, tensors: Mapping[str, Tensor], spec: LinearSpec) -> None:
        if set(tensors) != set(self.leaves(spec)):
            wanted, found = ", ".join(self.leaves(spec)), ", ".join(sorted(tensors))
            raise ModelError(
                f"a {spec} layer is stored as {wanted}, but this one has {found}; config.json is of another model"
            )

    def _zeros(self, tensors: Mapping[str, Tensor], spec: QuantSpec, grid: tuple[int, int]) -> Tensor:
        """Zero points (N, G) uint8."""
        n, groups = grid
        if spec.symmetric:
            return torch.full(grid, spec.mid, dtype=torch.uint8)
        _check(tensors, "weight_zero_point", (words_for(n, spec.bits), groups), (torch.int32,), spec)
        return unpack_bits(tensors["weight_zero_point"].T.contiguous(), spec.bits, n).T.contiguous()


def _check(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], spec: QuantSpec
) -> None:
    """Raises ModelError unless the tensor has this shape and one of these dtypes."""
    tensor = tensors[name]
    if tuple(tensor.shape) == shape and tensor.dtype in dtypes:
        return
    old = 32 % spec.bits and "packed" in name
    hint = " (before version 0.18 compressed-tensors packed this width in another way; write it again)" if old else ""
    wanted = " or ".join(map(str, dtypes))
    raise ModelError(f"{name} is {tensor.dtype} {list(tensor.shape)}; {spec} needs {wanted} {list(shape)}{hint}")


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
    if not spec.weight.symmetric and spec.weight.bits not in (4, 8):
        return f"vLLM: no, it reads zero points at 4 and 8 bits only, not {spec.weight.bits}; symmetric weights load."
    if spec.input is not None:
        if spec.input.bits not in (4, 8) or not spec.input.symmetric:
            return "vLLM: no, it serves activations of 4 or 8 bits, symmetric, only."
        return "vLLM: recent versions, on GPUs of compute capability 7.5 or higher (from its documentation; not run)."
    if spec.weight.group_size not in MARLIN_GROUPS:
        return (
            f"vLLM: unlikely, its kernels want groups of 32, 64, 128 or whole channels, not {spec.weight.group_size}."
        )
    return "vLLM: yes (from its documentation; not run)."


def _sglang(spec: LinearSpec) -> str:
    if spec.input is not None:
        return "SGLang: no, it reads this layout with floating-point activations only."
    if spec.weight.bits not in (4, 8):
        return f"SGLang: no, it reads 4 and 8 bits only, not {spec.weight.bits}."
    if spec.weight.group_size not in MARLIN_GROUPS:
        return (
            f"SGLang: unlikely, its kernels want groups of 32, 64, 128 or whole channels, not {spec.weight.group_size}."
        )
    return "SGLang: yes (from its documentation; not run)."


FORMATS.add("compressed-tensors")(CompressedTensors())
