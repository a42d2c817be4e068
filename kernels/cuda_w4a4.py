"""CUDA kernel for integers of at most 4 bits on both sides, on GPUs with int4 tensor cores (8.0 to 8.9).

Activations are quantised per token by omniq.grid, in torch; sums of a group are exact integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.grid import quantize_tokens
from omniq.kernels.cuda_layout import SLAB, UNIT, packed_int4, packed_nibbles, whole_units
from omniq.kernels.cuda_library import CodesCall, device_refusal, place, run
from omniq.kernels.cuda_wna16 import check_input
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.shared_library import TYPES, check_scales
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

MOST_BITS = 4
NEWEST = (8, 9)


class CudaW4A4:
    """Symmetric weights, groups of a multiple of 64 columns or whole rows."""

    priority = 60
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Needs int4 tensor cores, and integers that fit them."""
        if spec.input is None or max(spec.input.bits, spec.weight.bits) > MOST_BITS:
            return f"it multiplies integers of at most {MOST_BITS} bits on both sides"
        if not spec.weight.symmetric:
            return "it needs symmetric weights"
        width = spec.weight.width(shape[1])
        if width % SLAB and width != shape[1]:
            return f"it needs groups of a multiple of {SLAB} columns or of whole rows, not of {width}"
        if reason := device_refusal(device):
            return reason
        capability = torch.cuda.get_device_capability(device)
        if capability > NEWEST:
            return f"a GPU of compute capability {capability[0]}.{capability[1]} has no int4 tensor cores"
        return None

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> the layout of csrc/cuda/library/w4a4_gemm.cu."""
        check_scales(q)
        return packed_int4(q)

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        n, k = packed["shape"].shape[1:]
        check_input(x, k)
        check_codes(packed, n, k, spec.weight.groups(k), x.device)
        return multiplied(x, packed, spec) if x.shape[0] else x.new_empty(0, n)


def multiplied(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
    """x (M, K) -> (M, N) in x.dtype."""
    codes, scales, zeros = quantize_tokens(x, spec.input)
    shifts = None if spec.input.symmetric else zeros.float()
    y = x.new_empty(x.shape[0], packed["shape"].shape[1])
    multiply(packed_nibbles(codes), scales.float(), shifts, packed, y)
    return y


def check_codes(packed: dict[str, Tensor], n: int, k: int, groups: int, device: torch.device) -> None:
    """Refuses packed tensors that are not what prepack makes for a weight (N, K), or that are not where x is."""
    units, slabs = whole_units(n) // UNIT, -(-k // SLAB)
    wanted = {"codes": (units, slabs, 256), "scales": (units, groups, 8, 4), "row_sums": (n,)}
    for name, shape in wanted.items():
        tensor = packed[name]
        known = TYPES if name == "scales" else (torch.int32,) if name == "codes" else (torch.float32,)
        if tensor.shape != shape or tensor.dtype not in known or not tensor.is_contiguous() or tensor.device != device:
            raise RuntimeError(
                f"packed {name} are {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, which is not what a "
                f"weight {(n, k)} on {device} is packed as; load the checkpoint again"
            )


def multiply(nibbles: Tensor, scales: Tensor, shifts: Tensor | None, packed: dict[str, Tensor], y: Tensor) -> None:
    """Fills y (M, N): nibbles (M, K' / 2) and K' whole slabs, scales and shifts (M, 1) float32."""
    call, weight_scales = CodesCall(), packed["scales"]
    weight, (n, k) = call.weight, packed["shape"].shape[1:]
    weight.codes, weight.scales = packed["codes"].data_ptr(), weight_scales.data_ptr()
    weight.outputs, weight.columns, weight.bits = n, k, MOST_BITS
    weight.group = 0 if weight_scales.shape[1] == 1 else k // weight_scales.shape[1]
    weight.scale_type = TYPES[weight_scales.dtype]
    call.x, call.x_scales, call.y = nibbles.data_ptr(), scales.data_ptr(), y.data_ptr()
    call.x_shifts = None if shifts is None else shifts.data_ptr()
    call.row_sums = packed["row_sums"].data_ptr()
    call.device, call.stream, _ = place(y.device)
    call.rows, call.y_type = y.shape[0], TYPES[y.dtype]
    run("omniq_cuda_w4a4", call)


KERNELS.add("cuda_w4a4")(CudaW4A4())
