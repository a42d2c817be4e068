"""The compiled CPU kernels: one as exact as floating point, and one that rounds activations to 8 bits a block.

Both multiply integers (kernels/csrc/cpu/problem.h). The exact one writes every activation as several 8-bit digits of
its value relative to the largest of its block: three, 22 bits, for bfloat16 and float16, whose own 8 or 11 bits are
relative to each value, and four for float32. So a value 10000 times smaller than one beside it still keeps 8 bits.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from omniq.grid import quantize_tokens
from omniq.kernels.cpu_layout import PANEL, packed_shapes, packed_weight, stored_bits
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.native import cpu_bfloat16, cpu_library
from omniq.kernels.shared_library import TYPES, check_scales
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

EXACT = {torch.float32: 4, torch.bfloat16: 3, torch.float16: 3}
ROUNDED = dict.fromkeys(TYPES, 1)
"""Digits of a value, by dtype."""
CROSSOVER = 128
"""Rows from which torch's bfloat16 product of the expanded weight is faster than three digits: 1.4 times at 512 rows,
1.1 at 128, on a processor with bfloat16 dot products."""
EXPANDED = 1 << 21
"""Weights expanded at a time: in bfloat16 they stay in the last-level cache."""
LARGE = 4 << 20
"""Bytes from which a weight is put on large pages of 2 MB."""

shapes_of = lru_cache(maxsize=None)(packed_shapes)


class Cpu:
    """Float activations to the accuracy of their dtype; integer activations exactly."""

    priority = 30
    approximate = False
    digits = EXACT

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Needs the compiled library and the CPU."""
        return "it runs on the CPU only" if device.type != "cpu" else cpu_library()[1]

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> the layout of cpu_layout.py."""
        check_scales(q)
        packed = packed_weight(q)
        return packed | {"lines": on_large_pages(packed["lines"])}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        n, k = packed["sizes"].tolist()
        check_input(x, k)
        check_packed(packed, spec.weight, n, k)
        y = x.new_empty(x.shape[0], n)
        if not self.approximate and gains_by_expanding(x, spec):
            multiply_expanded(x, packed, spec, y)
        elif x.shape[0]:
            multiply(x, packed, spec, self.digits[x.dtype], y)
        return y


class CpuInt8(Cpu):
    """Activations rounded to 8 bits, one scale per token and block of up to 128 columns: about 0.6 % of the outputs."""

    priority = 40
    approximate = True
    digits = ROUNDED

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """As Cpu, and only where activations are in floating point."""
        if spec.input is not None:
            return "the scheme quantises activations itself"
        return super().refuse(spec, shape, device)


def gains_by_expanding(x: Tensor, spec: LinearSpec) -> bool:
    """Whether torch's product of the expanded weight is faster for x (M, K), and no less exact than x's dtype."""
    return spec.input is None and x.dtype == torch.bfloat16 and x.shape[0] >= CROSSOVER and cpu_bfloat16() is True


def on_large_pages(lines: Tensor) -> Tensor:
    """The same values in memory of large pages, for a tensor that has room for several: read from memory a quarter
    faster on Linux, which grants them on request only."""
    library, _ = cpu_library()
    if library is None or lines.nbytes < LARGE:
        return lines
    home = torch.empty_like(lines)
    library.omniq_cpu_prefer_large_pages(home.data_ptr(), home.nbytes)
    return home.copy_(lines)


def check_input(x: Tensor, columns: int) -> None:
    """Refuses what the library would read out of bounds or take for another type."""
    if x.device.type != "cpu" or x.dtype not in TYPES:
        raise RuntimeError(
            f"x is {x.dtype} on {x.device}; the CPU kernels take float32, bfloat16 and float16 on the CPU"
        )
    if x.dim() != 2 or x.shape[1] != columns:
        raise RuntimeError(f"x has shape {tuple(x.shape)}; this layer takes (M, {columns})")


def check_packed(packed: dict[str, Tensor], spec: QuantSpec, n: int, k: int) -> None:
    """Refuses packed tensors that are not what prepack makes for a weight (N, K)."""
    lines, scales = shapes_of(spec, n, k)
    wanted = (
        {"lines": lines, "scales": scales} if spec.symmetric else {"lines": lines, "scales": scales, "zeros": scales}
    )
    for name, shape in wanted.items():
        tensor = packed[name]
        known = tensor.dtype in TYPES if name == "scales" else tensor.dtype == torch.uint8
        if tensor.shape != shape or not known or not tensor.is_contiguous():
            raise RuntimeError(
                f"packed {name} are {tensor.dtype} {tuple(tensor.shape)}, which is not the layout of a weight {(n, k)} "
                f"in {spec}; load the checkpoint again"
            )


def multiply(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, digits: int, y: Tensor) -> None:
    """Fills y (M, N) with x (M, K) times the packed weight."""
    (n, k), threads, library = (y.shape[1], x.shape[1]), torch.get_num_threads(), cpu_library()[0]
    weight = weight_arguments(packed, spec.weight, n, k)
    if spec.input is None:
        x = x if x.stride(1) == 1 else x.contiguous()
        failed = library.omniq_cpu_linear(
            x.data_ptr(), TYPES[x.dtype], x.shape[0], x.stride(0), y.data_ptr(), n, *weight, digits, threads
        )
    else:
        codes, scale, zero = quantize_tokens(x.contiguous(), spec.input)
        codes, scale = codes.to(torch.int16), scale.float()
        # From -255 to 255 once the zero point is taken off, which needs two digits.
        codes, digits = (codes, 1) if spec.input.symmetric else (codes - zero.to(torch.int16), 2)
        failed = library.omniq_cpu_linear_codes(
            codes.data_ptr(), scale.data_ptr(), x.shape[0], y.data_ptr(), TYPES[x.dtype], n, *weight, digits, threads
        )
    check_status(failed, spec, n, k)


def multiply_expanded(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, y: Tensor) -> None:
    """Fills y (M, N) with x (M, K) times the weight, expanded some panels at a time into torch's own product."""
    n, k = y.shape[1], x.shape[1]
    weight, library = weight_arguments(packed, spec.weight, n, k), cpu_library()[0]
    step = max(1, EXPANDED // (PANEL * k))
    home = x.new_empty(step * PANEL, k)
    for first in range(0, packed["lines"].shape[0], step):
        panels = min(step, packed["lines"].shape[0] - first)
        rows = slice(first * PANEL, min(n, (first + panels) * PANEL))
        failed = library.omniq_cpu_expand(
            first, panels, home.data_ptr(), TYPES[x.dtype], *weight, torch.get_num_threads()
        )
        check_status(failed, spec, n, k)
        y[:, rows] = linear(x, home[: rows.stop - rows.start])


def weight_arguments(packed: dict[str, Tensor], spec: QuantSpec, n: int, k: int) -> tuple:
    """A packed weight (N, K) as the library's functions take it."""
    scales, zeros = packed["scales"], None if spec.symmetric else packed["zeros"]
    pointers = (
        packed["lines"].data_ptr(),
        scales.data_ptr(),
        TYPES[scales.dtype],
        None if zeros is None else zeros.data_ptr(),
    )
    return (*pointers, stored_bits(spec.bits), spec.mid, n, k, spec.width(k))


def check_status(status: int, spec: LinearSpec, n: int, k: int) -> None:
    """Raises for a status other than 0."""
    if status:
        raise RuntimeError(f"the CPU library refused a layer {(n, k)} in {spec} (status {status})")


KERNELS.add("cpu")(Cpu())
KERNELS.add("cpu_int8")(CpuInt8())
