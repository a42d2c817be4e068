"""The layout of the Triton kernels, and its inverse.

`words` (S, T, P, 64, E): S strips of 64 rows, T tiles of columns, P planes (3 for 3-bit codes, else 1), E elements of
16 bits (float path) or 8 (int8 path). A tile covers F * E columns, F fields; field i of element (row, e) of tile t is
the code of column (t * F + i) * E + e. So one field of a tile is E neighbouring columns, a strip is read front to
back, and each row of a tile is a run of at least 32 bytes. 3 bits: planes 0 and 1 hold the low two bits of the first
and the second half of the fields, plane 2 the high bits. Rows and columns beyond the weight hold code 0.

`grids` (G, S * 64): the scale's bits above the zero point: int32 for 16-bit scales (<< 16), int64 for float32 (<< 32).
One word feeds both the unpacking and the scaling, so the compiler's pipeline fetches scales ahead as it does weights.

`extent` (N, K, 0) holds nothing; its shape says how much of the padded words is the weight, its dtype is the scales'.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from omniq.kernels._triton.fields import field_count, field_width, high_bit
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

STRIP = 64
WIDEST = {16: {2: 32, 3: 16, 4: 64, 8: 64}, 8: {2: 64, 3: 32, 4: 64, 8: 128}}
NARROWEST = {16: 16, 8: 32}
"""Element bits -> bits -> E. The narrowest is the depth of one tensor-core instruction; wider costs fewer instructions
a weight (sm_90, 4 bits, 16 tokens: 2.4 at 32 and 2.05 at 64), until registers or shared memory run out."""


def run_length(spec: QuantSpec, in_features: int, element: int) -> int | None:
    """E for a weight (N, K): the widest that divides the group and pads K by at most 1/16; None when none fits."""
    widest, narrowest = WIDEST[element][spec.bits if spec.bits <= 4 else 8], NARROWEST[element]
    size = 0 if spec.group_size == -1 else spec.group_size
    fits = [e for e in (128, 64, 32, 16) if narrowest <= e <= widest and size % e == 0]
    count = field_count(spec.bits, element)
    return next((e for e in fits if -in_features % (count * e) * 16 <= in_features), fits[-1] if fits else None)


def tiled(codes: Tensor, fields: int, e: int) -> Tensor:
    """codes (N, K) uint8 -> (S, T, fields, 64, e) uint8, padded with 0."""
    n, k = codes.shape
    codes = pad(codes, (0, -k % (fields * e), 0, -n % STRIP))
    strips, tiles = codes.shape[0] // STRIP, codes.shape[1] // (fields * e)
    return codes.view(strips, STRIP, tiles, fields, e).permute(0, 2, 3, 1, 4)


def packed_words(codes: Tensor, bits: int, element: int, e: int) -> Tensor:
    """codes (N, K) uint8 -> words (S, T, P, 64, E) int16 or int8."""
    fields, width = field_count(bits, element), field_width(bits)
    tiles = tiled(codes, fields, e)
    here = element // width
    planes = torch.zeros(*tiles.shape[:2], 3 if bits == 3 else 1, STRIP, e, dtype=torch.int32, device=codes.device)
    for i in range(fields):
        code = tiles[:, :, i].to(torch.int32)
        planes[:, :, i // here] |= (code & (2**width - 1)) << (i % here * width)
        if bits == 3:
            planes[:, :, 2] |= (code >> 2) << high_bit(i, element)
    return planes.to(torch.int16 if element == 16 else torch.int8)


def unpacked_codes(words: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
    """The inverse: words (S, T, P, 64, E) -> codes (N, K) uint8."""
    element = words.element_size() * 8
    fields, width = field_count(bits, element), field_width(bits)
    here, planes = element // width, words.to(torch.int32)
    codes = [planes[:, :, i // here] >> (i % here * width) & (2**width - 1) for i in range(fields)]
    if bits == 3:
        codes = [code | (planes[:, :, 2] >> high_bit(i, element) & 1) << 2 for i, code in enumerate(codes)]
    whole = torch.stack(codes, dim=2).permute(0, 3, 1, 2, 4)
    strips, rows, tiles, fields, e = whole.shape
    return whole.reshape(strips * rows, tiles * fields * e)[: shape[0], : shape[1]].to(torch.uint8)


def packed_grids(q: QTensor) -> Tensor:
    """scales, zeros (N, G) -> grids (G, S * 64) int32 or int64."""
    scales = q.scales.contiguous()
    if scales.dtype == torch.float32:
        bits = scales.view(torch.int32).to(torch.int64) << 32
    else:
        bits = scales.view(torch.int16).to(torch.int32) << 16
    return pad((bits | q.zeros).T, (0, -q.shape[0] % STRIP)).contiguous()


def packed(q: QTensor, element: int) -> dict[str, Tensor]:
    """QTensor with scales in float32, float16 or bfloat16 -> words, grids, extent."""
    e = run_length(q.spec, q.shape[1], element)
    words = packed_words(q.codes, q.spec.bits, element, e)
    return {"words": words, "grids": packed_grids(q), "extent": q.scales.new_empty(*q.shape, 0)}


@cache
def expected(
    spec: LinearSpec, n: int, k: int, scales: torch.dtype, element: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What the packed tensors of a weight (N, K) with these scales must be: name -> shape, dtype."""
    weight, strips = spec.weight, math.ceil(n / STRIP)
    e = run_length(weight, k, element)
    tiles = math.ceil(k / (field_count(weight.bits, element) * e))
    words = (strips, tiles, 3 if weight.bits == 3 else 1, STRIP, e)
    grids = (weight.groups(k), strips * STRIP)
    return {
        "words": (words, torch.int16 if element == 16 else torch.int8),
        "grids": (grids, torch.int64 if scales == torch.float32 else torch.int32),
    } | ({"sums": (grids, torch.int32)} if spec.input and not spec.input.symmetric else {})
