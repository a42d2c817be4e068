"""The sum of the float32 parts that several programs wrote, always in the same order: the same bits every time."""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.rounding import rounded


@triton.jit(do_not_specialize=["size", "count"])
def summed(parts, out, size, count, FAST: tl.constexpr, BLOCK: tl.constexpr):
    """parts (count, size) float32 -> out (size), added first to last."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    sums = tl.load(parts + at, mask=inside, other=0.0)
    part = parts + at
    for _ in range(1, count):
        part += size
        sums += tl.load(part, mask=inside, other=0.0)
    tl.store(out + at, rounded(sums, out.dtype.element_ty, FAST), mask=inside)
