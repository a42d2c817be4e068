"""CUDA kernels for weights of 2 to 8 bits and activations in floating point.

Up to 8 tokens the decode kernel reads the weight once; up to CROSSOVER tokens (2 to 4 bits) the matrix-matrix kernel;
beyond, the weight is expanded into x.dtype and torch multiplies. Products are of exact integers with float16 or
bfloat16 activations, summed in float32; the scale multiplies sums of at most 128 columns. A float32 activation is
written as three bfloat16 numbers, each the exact rest of the one before, and takes the place of three tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from omniq.kernels.cuda_layout import COLUMNS, STEP, UNIT, packed_weight, steps, stored_bits, whole_units
from omniq.kernels.cuda_library import Call, cuda_library, device_refusal, place, run
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.shared_library import TYPES, check_scales
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

DECODE_ROWS = 8
CROSSOVER = {8: 192, 9: 96, 12: 192}
"""Rows beyond which expanding the weight is faster, by major compute capability; estimates from instruction counts."""
EIGHT_BIT_ROWS = 16
"""The same for 8-bit weights, which the decode kernel takes 8 rows at a time."""
PLANES = 3
"""bfloat16 numbers in a float32."""
UPPER_HALF = -(1 << 16)
"""Of a float32: its sign, its exponent and the mantissa of a bfloat16."""


class CudaWna16:
    """2 to 8 bits, any N and K, groups of a multiple of 32 columns or whole rows."""

    priority = 50
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Needs the compiled library and a GPU it runs on, activations in floating point, and groups of whole steps."""
        if spec.input is not None:
            return "it keeps activations in floating point, and the scheme quantises them"
        width = spec.weight.width(shape[1])
        if width % STEP and width != shape[1]:
            return f"it needs groups of a multiple of {STEP} columns or of whole rows, not of {width}"
        return device_refusal(device)

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> the layout of cuda_layout.py."""
        check_scales(q)
        return packed_weight(q)

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        n, k = packed["shape"].shape[1:]
        check_input(x, k)
        check_packed(packed, spec.weight, n, k, x.device)
        if not x.shape[0]:
            return x.new_empty(0, n)
        return multiplied(x, packed, spec.weight, most_rows(spec.weight, x.device))


def multiplied(x: Tensor, packed: dict[str, Tensor], spec: QuantSpec, most: int) -> Tensor:
    """x (M, K) -> (M, N) in x.dtype; beyond `most` rows of activations, by expanding the weight."""
    n, k = packed["shape"].shape[1:]
    if x.shape[0] * (PLANES if x.dtype == torch.float32 else 1) > most:
        return expanded_product(x, packed, spec, n, k)
    if x.dtype != torch.float32:
        return product(aligned(x, k), packed, spec, n, x.dtype)
    y = product(aligned(planes(x), k), packed, spec, n, torch.float32).view(PLANES, -1, n)
    return (y[2] + y[1]) + y[0]


def most_rows(spec: QuantSpec, device: torch.device) -> int:
    """Rows of activations up to which the packed weight is multiplied as it is."""
    if stored_bits(spec.bits) == 8:
        return EIGHT_BIT_ROWS
    return CROSSOVER.get(torch.cuda.get_device_capability(device)[0], CROSSOVER[9])


def check_input(x: Tensor, columns: int) -> None:
    """Refuses what the library would read out of bounds or take for another type."""
    if x.device.type != "cuda" or x.dtype not in TYPES:
        raise RuntimeError(f"x is {x.dtype} on {x.device}; CUDA kernels take float32, bfloat16 and float16 on a GPU")
    if x.dim() != 2 or x.shape[1] != columns:
        raise RuntimeError(f"x has shape {tuple(x.shape)}; this layer takes (M, {columns})")


def wanted_tensors(spec: QuantSpec, n: int, k: int) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Leaf -> shape and dtype of what packed_weight makes of a weight (N, K); None stands for any dtype of scales."""
    bits, units = stored_bits(spec.bits), whole_units(n) // UNIT
    count = steps(bits, k)
    loads = count // 2 if bits in (2, 3) else count
    width = spec.width(k)
    groups = -(-count * STEP // width) if width < k else 1
    wanted = {
        "codes": ((units, loads, 256 if bits == 8 else 128), torch.int32),
        "scales": ((units, groups, 8, 4), None),
    }
    if bits == 3:
        wanted["high"] = ((units, loads, 64), torch.int32)
    if not spec.symmetric:
        wanted["zeros"] = ((units, groups, 8, 4), torch.uint8)
    return wanted


def check_packed(packed: dict[str, Tensor], spec: QuantSpec, n: int, k: int, device: torch.device) -> None:
    """Refuses packed tensors that are not what prepack makes for a weight (N, K), or that are not where x is."""
    for name, (shape, dtype) in wanted_tensors(spec, n, k).items():
        tensor = packed[name]
        known = tensor.dtype == dtype if dtype else tensor.dtype in TYPES
        if tensor.shape != shape or not known or not tensor.is_contiguous():
            raise RuntimeError(
                f"packed {name} are {tensor.dtype} {tuple(tensor.shape)}, which is not the layout of a weight {(n, k)} "
                f"in {spec}; load the checkpoint again"
            )
        if tensor.device != device:
            raise RuntimeError(f"packed {name} are on {tensor.device}, x is on {device}; move the model or its input")


def planes(x: Tensor) -> Tensor:
    """x (M, K) float32 -> (3M, K) bfloat16, three planes whose sum is x exactly; NaN and infinity stay in the first."""
    parts = []
    for _ in range(PLANES):
        part = x.contiguous().view(torch.int32).bitwise_and(UPPER_HALF).view(torch.float32)
        x = torch.where(part.isfinite(), x - part, 0.0)
        parts.append(part.to(torch.bfloat16))
    return torch.cat(parts)


def aligned(x: Tensor, columns: int) -> Tensor:
    """x (M, K) as the library reads it: 16-byte aligned rows, K a multiple of 8 (zeros beyond `columns`)."""
    if columns % COLUMNS:
        return pad(x, (0, -columns % COLUMNS))
    if x.stride(1) == 1 and x.stride(0) % COLUMNS == 0 and x.stride(0) >= columns and x.data_ptr() % 16 == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def call_of(packed: dict[str, Tensor], spec: QuantSpec, n: int, columns: int) -> Call:
    """What every call on this weight says; columns: K rounded up to a multiple of 8."""
    call, scales = Call(), packed["scales"]
    weight = call.weight
    weight.codes, weight.scales = packed["codes"].data_ptr(), scales.data_ptr()
    weight.high = packed["high"].data_ptr() if "high" in packed else None
    weight.zeros = packed["zeros"].data_ptr() if "zeros" in packed else None
    weight.outputs, weight.columns = n, columns
    weight.group = 0 if scales.shape[1] == 1 else spec.group_size
    weight.bits, weight.mid, weight.scale_type = stored_bits(spec.bits), spec.mid, TYPES[scales.dtype]
    call.device, call.stream, call.multiprocessors = place(scales.device)
    call.splits = 1
    return call


def product(x: Tensor, packed: dict[str, Tensor], spec: QuantSpec, n: int, dtype: torch.dtype) -> Tensor:
    """x (M, K), aligned, in float16 or bfloat16 -> (M, N) in `dtype`."""
    y = x.new_empty(x.shape[0], n, dtype=dtype)
    call = call_of(packed, spec, n, x.shape[1])
    call.x, call.y, call.rows = x.data_ptr(), y.data_ptr(), x.shape[0]
    call.stride = x.stride(0) if x.shape[0] > 1 else x.shape[1]
    call.x_type, call.y_type = TYPES[x.dtype], TYPES[dtype]
    if x.shape[0] <= DECODE_ROWS:
        run("omniq_cuda_decode", call)
    elif stored_bits(spec.bits) == 8:
        for first in range(0, x.shape[0], DECODE_ROWS):
            part, out = x[first : first + DECODE_ROWS], y[first : first + DECODE_ROWS]
            call.x, call.y, call.rows = part.data_ptr(), out.data_ptr(), part.shape[0]
            run("omniq_cuda_decode", call)
    else:
        multiply_parts(call, y)
    return y


def multiply_parts(call: Call, y: Tensor) -> None:
    """The matrix-matrix kernel, with memory for the sums of each part of K where it is cut."""
    library, _ = cuda_library()
    call.splits = library.omniq_cuda_splits(call)
    if call.splits > 1:
        # Held until the call returns: the allocator gives it to later work of the same stream only.
        partial = y.new_empty(call.splits, *y.shape, dtype=torch.float32)
        call.partial = partial.data_ptr()
    run("omniq_cuda_gemm", call)


def expanded_product(x: Tensor, packed: dict[str, Tensor], spec: QuantSpec, n: int, k: int) -> Tensor:
    """x (M, K) -> (M, N) in x.dtype: the weight expanded into x.dtype, each value rounded once; torch multiplies."""
    columns = k + -k % COLUMNS
    weight = x.new_empty(n, columns)
    call = call_of(packed, spec, n, columns)
    call.y, call.y_type = weight.data_ptr(), TYPES[x.dtype]
    run("omniq_cuda_dequantize", call)
    return x @ weight[:, :k].T


KERNELS.add("cuda_wna16")(CudaWna16())
