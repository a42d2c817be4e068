"""Per-token integers for the input, in one kernel: range, grid, codes. The same bits as omniq.grid.quantize_tokens.

That function computes in x.dtype and rounds after every step; so does this one, step by step. Where torch divides by a
number it multiplies by the reciprocal on CUDA and divides on the CPU: `RECIPROCAL` says which.

What limits it: bytes. x is read twice, the second time from the cache, and one byte a number is written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.rounding import through

SMALLEST_STEP = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""torch.finfo(dtype).eps, by name: the scale of a token that is all zeros."""


@triton.jit
def nearest_integer(value):
    """value float32, below 2**22 in size -> the nearest integer, half to even: the bits behind the point fall off."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def quantize(x, codes, scales, zeros, K, padded, x_stride,
             BITS: tl.constexpr, SYMMETRIC: tl.constexpr, EPS: tl.constexpr, RECIPROCAL: tl.constexpr,
             FAST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """x (M, K) -> codes (M, padded) int8, 0 from K on, scales (M,) float32, zeros (M,) int32; one program a token."""
    KIND: tl.constexpr = x.dtype.element_ty
    LOW: tl.constexpr = -(2 ** (BITS - 1))
    HIGH: tl.constexpr = 2 ** (BITS - 1) - 1
    STEPS: tl.constexpr = (HIGH - LOW) / 2 if SYMMETRIC else HIGH - LOW + 0.0
    token, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    least = tl.zeros((BLOCK,), tl.float32)
    most = tl.zeros((BLOCK,), tl.float32)
    strange = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, K, BLOCK):
        value = tl.load(x + token * x_stride + start + lane, mask=start + lane < K, other=0.0).to(tl.float32)
        least, most = tl.minimum(least, value), tl.maximum(most, value)
        strange |= (value != value).to(tl.int32)
    low, high = tl.min(least, 0), tl.max(most, 0)
    span = tl.maximum(-low, high) if SYMMETRIC else through(high - low, KIND, FAST)
    scale = through(span * (1.0 / STEPS) if RECIPROCAL else tl.div_rn(span, STEPS), KIND, FAST)
    scale = tl.where(scale == 0.0, EPS, scale)
    zero = 0.0
    if not SYMMETRIC:
        zero = through(LOW - through(tl.div_rn(low, scale), KIND, FAST), KIND, FAST)
        zero = nearest_integer(tl.minimum(tl.maximum(zero, LOW), HIGH))
    for start in range(0, padded, BLOCK):
        column = start + lane
        value = tl.load(x + token * x_stride + column, mask=column < K, other=0.0).to(tl.float32)
        code = through(tl.div_rn(value, scale), KIND, FAST)
        if not SYMMETRIC:
            code = through(code + zero, KIND, FAST)
        code = nearest_integer(tl.minimum(tl.maximum(code, LOW), HIGH))
        tl.store(codes + token * padded + column, tl.where(column < K, code, 0.0).to(tl.int8), mask=column < padded)
    # A NaN anywhere makes the whole token NaN, as the maximum of a row with a NaN does in torch.
    scale = tl.where(tl.max(strange, 0) > 0, float("nan"), scale)
    tl.store(scales + token, scale)
    if not SYMMETRIC:
        tl.store(zeros + token, zero.to(tl.int32))
