"""Where a program reads its packed words (layout.py) and writes its result."""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.fields import field_count
from omniq.kernels._triton.rounding import rounded


@triton.constexpr_function
def plane_count(bits):
    """Planes of a tile: two low ones and a high one for 3-bit codes."""
    return 3 if bits == 3 else 1


@triton.constexpr_function
def run_of_group(bits, element, e, group):
    """How many neighbouring fields of a tile surely share a scale."""
    tile = field_count(bits, element) * e
    if group <= 0 or group % tile == 0:
        return tile // e
    return group // e if tile % group == 0 else 1


@triton.jit
def word_places(words, row, tiles, BITS: tl.constexpr, E: tl.constexpr):
    """row (BN,) -> pointers (BN, E) to the first plane of tile 0."""
    line = (row // 64).to(tl.int64) * tiles * (plane_count(BITS) * 64) + row % 64
    return words + line[:, None] * E + tl.arange(0, E)[None, :]


@triton.jit
def planes(word, tile, BITS: tl.constexpr, E: tl.constexpr):
    """pointers (BN, E) of tile 0 -> the planes of a tile: low, low of the upper fields, high; (BN, E) each."""
    word += tile * (plane_count(BITS) * 64 * E)
    low = tl.load(word)
    if BITS == 3:
        return low, tl.load(word + 64 * E), tl.load(word + 2 * 64 * E)
    else:
        return low, low, low


@triton.jit
def columns(numbers, m, M, stride, E: tl.constexpr):
    """numbers (M, K), m (BM,) -> pointers (E, BM) to the first E columns of each token, clamped to the last."""
    return numbers + tl.minimum(m, M - 1).to(tl.int64)[None, :] * stride + tl.arange(0, E)[:, None]


@triton.jit
def store(out, value, m, n, M, N, FAST: tl.constexpr):
    """value (BN, BM) float32 -> the part of out (splits, M, N) that is this program's, rounded to out's dtype."""
    place = out + tl.program_id(1).to(tl.int64) * M * N + m.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(place, rounded(value, out.dtype.element_ty, FAST), mask=(m < M)[None, :] & (n < N)[:, None])
