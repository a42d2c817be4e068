"""A quantised weight as the CUDA kernels read it; csrc/cuda/library/problem.h and w4a4_gemm.cu define the layouts.

Letters of the code: U units of 32 rows (row 16r + 8h + g of one), S steps of 32 columns (column 8t + 4i + 2c + e).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from omniq.qtensor import QTensor

UNIT, STEP, SLAB, COLUMNS = 32, 32, 64, 8
"""Rows of a unit; columns of a step and, in W4A4, of a slab; what K is rounded up to in activations."""


def stored_bits(bits: int) -> int:
    """The field that a code of `bits` bits sits in."""
    return bits if bits <= 4 else 8


def steps(bits: int, in_features: int) -> int:
    """S: whole steps of K, and whole pairs of them where one load covers two."""
    covered = 2 if bits in (2, 3) else 1
    return -(-in_features // (STEP * covered)) * covered


def padded(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """tensor (n, k) -> (rows, columns), zeros around."""
    return pad(tensor, (0, columns - tensor.shape[1], 0, rows - tensor.shape[0]))


def whole_units(rows: int) -> int:
    """`rows` rounded up to units."""
    return -(-rows // UNIT) * UNIT


def lanes_of(codes: Tensor, count: int) -> Tensor:
    """codes (N, K) -> (U, S, g, t, r, i, e, c, h) uint8, S = `count`: a lane's own codes last."""
    full = padded(codes, whole_units(codes.shape[0]), count * STEP)
    split = full.view(-1, 2, 2, 8, count, 4, 2, 2, 2)  # U r h g S t i c e
    return split.permute(0, 4, 3, 5, 1, 6, 8, 7, 2)


def joined(fields: Tensor, bits: int) -> Tensor:
    """fields (..., F) uint8, the lowest first -> bytes (..., F * bits / 8) uint8."""
    per_byte = 8 // bits
    parts = fields.reshape(*fields.shape[:-1], -1, per_byte)
    whole = torch.zeros(parts.shape[:-1], dtype=torch.uint8, device=fields.device)
    for index in range(per_byte):
        whole |= parts[..., index] << (index * bits)
    return whole


def words(data: Tensor) -> Tensor:
    """bytes (A, B, ...) -> int32 words (A, B, everything else)."""
    return data.contiguous().view(*data.shape[:2], -1).view(torch.int32)


def packed_codes(codes: Tensor, bits: int) -> dict[str, Tensor]:
    """codes (N, K) -> codes (U, loads, words) int32 and, for 3 bits, their top bits `high` (U, loads, words)."""
    lanes = lanes_of(codes, steps(bits, codes.shape[1]))
    if bits == 4:
        return {"codes": words(joined(lanes.flatten(6), 4))}
    if bits == 8:  # U S r g t i c h e
        return {"codes": words(lanes.permute(0, 1, 4, 2, 3, 5, 7, 8, 6))}
    pairs = lanes.unflatten(1, (-1, 2))  # U loads s g t r i e c h
    low = pairs.permute(0, 1, 3, 4, 2, 5, 7, 6, 8, 9).flatten(6)  # U loads g t s r (e i c h)
    if bits == 2:
        return {"codes": words(joined(low, 2))}
    top = pairs.permute(0, 1, 3, 4, 5, 7, 6, 8, 9, 2).flatten(5)  # U loads g t r (e i c h s)
    return {"codes": words(joined(low & 3, 2)), "high": words(joined(top >> 2, 1))}


def packed_groups(values: Tensor, groups: int) -> Tensor:
    """values (N, G) -> (U, groups, 8, 4): element 4g + 2r + h of each unit and group."""
    full = padded(values, whole_units(values.shape[0]), groups)
    return full.view(-1, 2, 2, 8, groups).permute(0, 4, 3, 1, 2).reshape(-1, groups, 8, 4).contiguous()


def packed_weight(q: QTensor) -> dict[str, Tensor]:
    """The weight for activations in floating point. `shape` (0, N, K) holds no value: no device is asked for it."""
    (n, k), bits = q.shape, stored_bits(q.spec.bits)
    groups = -(-steps(bits, k) * STEP // q.spec.width(k)) if q.scales.shape[1] > 1 else 1
    packed = packed_codes(q.codes, bits) | {"scales": packed_groups(q.scales, groups)}
    if not q.spec.symmetric:
        packed["zeros"] = packed_groups(q.zeros, groups)
    return packed | {"shape": torch.empty(0, n, k, dtype=torch.uint8)}


def packed_nibbles(codes: Tensor) -> Tensor:
    """Signed codes (M, K) int8 -> (M, whole slabs / 2) uint8, the lower nibble first, zeros beyond K."""
    return joined(pad(codes, (0, -codes.shape[1] % SLAB)).view(torch.uint8) & 15, 4)


def packed_int4(q: QTensor) -> dict[str, Tensor]:
    """A symmetric weight of at most 4 bits for integer activations, with `row_sums` (N): the sums of its rows."""
    n, k = q.shape
    signed = padded(q.codes.to(torch.int16) - q.spec.mid, whole_units(n), -(-k // SLAB) * SLAB).to(torch.int8)
    nibbles = signed.view(torch.uint8) & 15
    split = nibbles.view(-1, 2, 2, 8, signed.shape[1] // SLAB, 4, 2, 8)  # U r h g S t c k
    lanes = split.permute(0, 4, 1, 3, 5, 6, 2, 7)  # U S r g t c h k
    return {
        "codes": words(joined(lanes, 4)),
        "scales": packed_groups(q.scales, q.scales.shape[1]),
        "row_sums": q.dequantize(torch.float64).sum(1).float(),
        "shape": torch.empty(0, n, k, dtype=torch.uint8),
    }
