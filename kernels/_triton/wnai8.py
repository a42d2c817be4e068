"""Integer activations times packed weights, on int8 tensor cores.

As _triton/wna16.py, with elements of 8 bits: integer codes times integer codes into int32, exactly; the scale of the
group multiplies the float32 sum, the scale of the token the result. Per channel, the whole sum stays in int32.
Asymmetric activations: the int32 sum of a group starts at minus the token's zero point times the group's `sums`.
Asymmetric weights of 8 bits do not fit int8 once their zero point is off: they are multiplied as two halves of 4 bits.

What limits it: up to about 96 tokens the packed bytes, above that the tensor cores and, with groups, the conversion of
every int32 sum to float32 once per group. Activations of 4 bits run at the same speed: Hopper has no 4-bit tensor core.
"""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.fields import field_count
from omniq.kernels._triton.grids import grid_scale, grid_zero
from omniq.kernels._triton.tiles import columns, planes, run_of_group, store, word_places
from omniq.kernels._triton.unpack import byte_field


@triton.jit(do_not_specialize=["M", "tiles", "share"])
def gemm_i8(codes, scales, zeros, words, grids, sums, out, M, N, groups, tiles, share,
            BITS: tl.constexpr, E: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, SYMMETRIC: tl.constexpr,
            SHIFTED: tl.constexpr, FAST: tl.constexpr,
            BN: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """codes (M, tiles * F * E) int8, scales (M,) float32, words (strips, tiles, planes, 64, E) -> out (splits, M, N).

    grids, sums (groups, strips * 64). SHIFTED: the activations have zero points, zeros (M,) int32; else no sums either.
    """
    FIELDS: tl.constexpr = field_count(BITS, 8)
    HALVES: tl.constexpr = BITS == 8 and not SYMMETRIC
    GAIN: tl.constexpr = 2.0 ** (BITS - 8) if SYMMETRIC else 1.0
    TILE: tl.constexpr = FIELDS * E
    RUN: tl.constexpr = run_of_group(BITS, 8, E, GROUP)
    blocks = tl.cdiv(M, BM)
    padded = tl.cdiv(N, 64) * 64
    m = (tl.program_id(0) % blocks) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) // blocks) * BN + tl.arange(0, BN)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, tiles)
    row, token = tl.minimum(n, padded - 1), tl.minimum(m, M - 1)
    word = word_places(words, row, tiles, BITS, E)
    column = columns(codes, m, M, tiles * TILE, E)
    total = tl.zeros((BN, BM), tl.float32)
    part = tl.zeros((BN, BM), tl.int32)
    upper_part = tl.zeros((BN, BM), tl.int32)
    grid = tl.load(grids + row)
    shift = -tl.load(zeros + token) if SHIFTED else token
    if SHIFTED and GROUP <= 0:  # noqa: SIM102 (the first is settled at compile time, the second at run time)
        if tl.program_id(1) == 0:
            part = tl.load(sums + row)[:, None] * shift[None, :]
    for tile in tl.range(first, last, num_stages=STAGES):
        low, upper, high = planes(word, tile, BITS, E)
        for i in tl.static_range(FIELDS):
            k = tile * TILE + i * E
            if GROUP > 0 and i % RUN == 0:
                place = tl.minimum(k // GROUP, groups - 1) * padded + row
                grid = tl.load(grids + place)
                part = tl.zeros((BN, BM), tl.int32)
                if SHIFTED:
                    starts = (k % GROUP == 0) & (k < groups * GROUP)
                    part += tl.load(sums + place)[:, None] * tl.where(starts, shift, 0)[None, :]
                upper_part = tl.zeros((BN, BM), tl.int32)
            tokens = tl.load(column + k)
            if HALVES:
                weight = byte_field(low, low, grid_zero(grid) & 15, 0, 4, False, FAST)
                upper_weight = byte_field(low, low, grid_zero(grid) >> 4, 1, 4, False, FAST)
                upper_part = tl.dot(upper_weight, tokens, upper_part, out_dtype=tl.int32)
            else:
                plane = upper if BITS == 3 and i >= 4 else low
                weight = byte_field(plane, high, grid_zero(grid), i, BITS, SYMMETRIC, FAST)
            part = tl.dot(weight, tokens, part, out_dtype=tl.int32)
            if GROUP > 0 and i % RUN == RUN - 1:
                whole = part + (upper_part << 4) if HALVES else part
                total = tl.fma(whole.to(tl.float32), grid_scale(grid, SCALE)[:, None], total)
    if GROUP <= 0:
        whole = part + (upper_part << 4) if HALVES else part
        total = whole.to(tl.float32) * grid_scale(grid, SCALE)[:, None]
    total *= tl.load(scales + token)[None, :] * GAIN
    store(out, total, m, n, M, N, FAST)
