"""float32 to a narrower float, to nearest, half to even.

The compiler does that; Triton's interpreter (3.6 to 3.9 at least) drops bits on the way to bfloat16 instead, so without
`FAST` the bits are rounded as integers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rounded(value, kind: tl.constexpr, FAST: tl.constexpr):
    """value float32 -> the same shape in the dtype `kind`."""
    if FAST or kind != tl.bfloat16:
        return value.to(kind)
    else:
        bits = value.to(tl.uint32, bitcast=True)
        near = bits + 0x7FFF + ((bits >> 16) & 1)
        return (tl.where(value == value, near, bits) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def through(value, kind: tl.constexpr, FAST: tl.constexpr):
    """value float32 -> float32, rounded to what the dtype `kind` can hold."""
    return rounded(value, kind, FAST).to(tl.float32)
