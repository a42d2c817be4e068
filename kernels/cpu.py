"""The compiled CPU kernels: one as exact as floating point, and one that rounds activations to 8 bits a block.

Both multiply integers (kernels/csrc/cpu/problem.h). The exact one writes every activation as several 8-bit digits of
its value relative to the largest of its block: three, 22 bits, for bfloat16 and float16, whose own 8 or 11 bits are
relative to each value, and four for float32. So a value 10000 times smaller than one beside it still keeps 8 bits.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.grid import quantize_tokens
from omniq.kernels.cpu_layout import packed_shapes, packed_weight, stored_bits
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.native import cpu_library
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
EXACT = {torch.float32: 4, torch.bfloat16: 3, torch.float16: 3}
ROUNDED = dict.fromkeys(TYPES, 1)
"""Digits of a value, by dtype."""
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
        if q.scales.dtype not in TYPES:
            raise UnsupportedError(f"scales are {q.scales.dtype}; the CPU kernels take float32, bfloat16 and float16")
        packed = packed_weight(q)
        return packed | {"lines": on_large_pages(packed["lines"])}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        n, k = packed["sizes"].tolist()
        check_input(x, k)
        check_packed(packed, spec.weight, n, k)
        y = x.new_empty(x.shape[0], n)
        if x.shape[0]:
            multiply(x, packed, spec, self.digits[x.dtype], y)
        return y


class CpuInt8(Cpu):
    """Activations rounded to 8 bits, one scale per token and block of up to 128 columns: about 0.4 % of an output."""

    priority = 40
    approximate = True
    digits = ROUNDED

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """As Cpu, and only where activations are in floating point."""
        if spec.input is not None:
            return "the scheme quantises activations itself"
        return super().refuse(spec, shape, device)


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
    (n, k), scales = (y.shape[1], x.shape[1]), packed["scales"]
    zeros = None if spec.weight.symmetric else packed["zeros"]
    weight = (
        packed["lines"].data_ptr(),
        scales.data_ptr(),
        TYPES[scales.dtype],
        None if zeros is None else zeros.data_ptr(),
    )
    sizes = (stored_bits(spec.weight.bits), spec.weight.mid, n, k, spec.weight.width(k))
    threads = torch.get_num_threads()
    library, _ = cpu_library()
    if spec.input is None:
        x = x if x.stride(1) == 1 else x.contiguous()
        failed = library.omniq_cpu_linear(
            x.data_ptr(), TYPES[x.dtype], x.shape[0], x.stride(0), y.data_ptr(), n, *weight, *sizes, digits, threads
        )
    else:
        codes, scale, zero = quantize_tokens(x.contiguous(), spec.input)
        codes, scale = codes.to(torch.int16), scale.float()
        # From -255 to 255 once the zero point is taken off, which needs two digits.
        codes, digits = (codes, 1) if spec.input.symmetric else (codes - zero.to(torch.int16), 2)
        failed = library.omniq_cpu_linear_codes(
            codes.data_ptr(),
            scale.data_ptr(),
            x.shape[0],
            y.data_ptr(),
            TYPES[x.dtype],
            n,
            *weight,
            *sizes,
            digits,
            threads,
        )
    if failed:
        raise RuntimeError(f"the CPU library refused a layer of {x.shape[0]} rows, {(n, k)} (status {failed}): {spec}")


KERNELS.add("cpu")(Cpu())
KERNELS.add("cpu_int8")(CpuInt8())
