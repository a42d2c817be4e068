"""One group's scale and zero point out of the word that holds both (layout.py)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def grid_zero(grid):
    """grid int32 or int64 -> the zero point, int32."""
    return (grid & 255).to(tl.int32)


@triton.jit
def grid_scale(grid, SCALE: tl.constexpr):
    """grid int32 (16-bit scales) or int64 (float32 scales) -> the scale, float32."""
    if SCALE == "fp32":
        return (grid >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    elif SCALE == "bf16":
        return (grid & -65536).to(tl.float32, bitcast=True)
    else:
        return (grid >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
