"""Float activations times packed weights.

One program computes BN rows of the weight times BM tokens over a share of the tiles of K. Weights are the left operand
of the dot: they go from shared memory to registers, are unpacked there and never go back. Field i of a tile is E
neighbouring columns, hence one dot with E neighbouring columns of x, and nothing is permuted. The dot multiplies the
integers (code - zero), exact in float16 and bfloat16; the scale of the group multiplies the float32 sum. Programs that
share a result write float32 parts, which `summed` (parts.py) adds in a fixed order.

What limits it: one token reads every packed byte once. At 4.3 TB/s an H200 can issue 4.0 instructions per 4-bit weight,
3.1 per 3-bit and 2.1 per 2-bit; tests/test_triton_aot.py counts what was compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.fields import field_count
from omniq.kernels._triton.grids import grid_scale, grid_zero
from omniq.kernels._triton.rounding import rounded
from omniq.kernels._triton.tiles import columns, planes, run_of_group, store, word_places
from omniq.kernels._triton.unpack import float_field


@triton.jit(do_not_specialize=["M", "K", "tiles", "share"])
def gemm(x, words, grids, out, M, N, K, x_stride, tiles, share,
         BITS: tl.constexpr, E: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr,
         RAGGED: tl.constexpr, FAST: tl.constexpr,
         BN: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """x (M, K), words (strips, tiles, planes, 64, E) int16, grids (G, strips * 64) -> out (splits, M, N)."""
    FIELDS: tl.constexpr = field_count(BITS, 16)
    TILE: tl.constexpr = FIELDS * E
    RUN: tl.constexpr = run_of_group(BITS, 16, E, GROUP)
    blocks = tl.cdiv(M, BM)
    padded = tl.cdiv(N, 64) * 64
    m = (tl.program_id(0) % blocks) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) // blocks) * BN + tl.arange(0, BN)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, tiles)
    row = tl.minimum(n, padded - 1)
    e = tl.arange(0, E)
    word = word_places(words, row, tiles, BITS, E)
    column = columns(x, m, M, x_stride, E)
    acc = tl.zeros((BN, BM), tl.float32)
    grid = tl.load(grids + row)
    for tile in tl.range(first, last, num_stages=STAGES):
        low, upper, high = planes(word, tile, BITS, E)
        part = tl.zeros((BN, BM), tl.float32)
        for i in tl.static_range(FIELDS):
            k = tile * TILE + i * E
            if GROUP > 0 and i % RUN == 0:
                group = k // GROUP
                if RAGGED:
                    group = tl.minimum(group, K // GROUP - 1)
                grid = tl.load(grids + group * padded + row)
            weight = float_field(upper if BITS == 3 and i >= 8 else low, high, grid_zero(grid), i, BITS, DTYPE, FAST)
            if RAGGED:
                tokens = tl.load(column + k, mask=(k + e < K)[:, None], other=0.0)
            else:
                tokens = tl.load(column + k)
            part = tl.dot(weight, tokens.to(weight.dtype), part, input_precision="ieee")
            if i % RUN == RUN - 1:
                if GROUP > 0:
                    acc = tl.fma(part, grid_scale(grid, SCALE)[:, None], acc)
                else:
                    acc += part
                part = tl.zeros((BN, BM), tl.float32)
    if GROUP <= 0:
        acc *= grid_scale(grid, SCALE)[:, None]
    store(out, acc, m, n, M, N, FAST)


@triton.jit
def expand(words, grids, out, N, K, tiles,
           BITS: tl.constexpr, E: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr,
           FAST: tl.constexpr):  # fmt: skip
    """words (strips, tiles, planes, 64, E) int16, grids (G, strips * 64) -> out (N, K): one tile of one strip."""
    FIELDS: tl.constexpr = field_count(BITS, 16)
    strip, tile = tl.program_id(1), tl.program_id(0)
    row, e = strip * 64 + tl.arange(0, 64), tl.arange(0, E)
    low, upper, high = planes(word_places(words, row, tiles, BITS, E), tile, BITS, E)
    grid = tl.load(grids + row)
    for i in tl.static_range(FIELDS):
        k = (tile * FIELDS + i) * E
        if GROUP > 0:
            grid = tl.load(grids + tl.minimum(k // GROUP, K // GROUP - 1) * (tl.cdiv(N, 64) * 64) + row)
        code = float_field(upper if BITS == 3 and i >= 8 else low, high, grid_zero(grid), i, BITS, DTYPE, FAST)
        weight = code.to(tl.float32) * grid_scale(grid, SCALE)[:, None]
        place = out + row.to(tl.int64)[:, None] * K + k + e[None, :]
        tl.store(place, rounded(weight, out.dtype.element_ty, FAST), mask=(row < N)[:, None] & (k + e < K)[None, :])
