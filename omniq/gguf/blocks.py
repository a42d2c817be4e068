"""Blocks: the layouts in which GGUF keeps integers, and which of them holds a grid of omniq's exactly.

A block is 32 or 256 neighbours of a row with a scale d in float16. Where llama.cpp computes d * code, the code here is
v = q - z, a signed integer; where it computes d * code + m, the minimum m is a multiple of d. Either way every weight
(q - z) * s comes out as the same number, or encode() refuses. A scale may be negative, here as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.errors import UnsupportedError, UsageError
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

SMALL, LARGE = 32, 256
"""Values in a block, and in a super-block of the k-quants."""
HALF_BYTES = 2
ROWS_OF = 1 << 22
"""Weights packed at a time: the temporaries are several times as large."""


@dataclass(frozen=True, eq=False)
class Grid:
    """M blocks of C values. codes: (M, C) uint8; zeros: (M, 1) uint8; scales: (M, 1) float32."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor

    @property
    def signed(self) -> Tensor:
        """q - z, (M, C) int16."""
        return self.codes.to(torch.int16) - self.zeros.to(torch.int16)


@dataclass(frozen=True)
class Block:
    """One layout. name: llama.cpp's word for it. columns: values in a block. nbytes: its size.

    pack: Grid -> (M, nbytes) uint8; UnsupportedError where a value would become another one.
    """

    name: str
    columns: int
    nbytes: int
    pack: Callable[[Grid], Tensor]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight."""
        return 8 * self.nbytes / self.columns


def refusal(spec: QuantSpec, columns: int) -> str | None:
    """Why no block holds rows of K = `columns` on this grid, or None."""
    try:
        width = spec.width(columns)
    except UsageError as error:
        return str(error)
    if width % SMALL:
        what = f"whole channels of {columns} columns" if spec.group_size == -1 else f"groups of {width}"
        return f"GGUF keeps a scale for {SMALL} neighbours, and {what} are no multiple of that"
    if spec.bits == 8 and not spec.symmetric:
        return "GGUF has no block of 8 bits with a zero point; symmetric ones fit"
    return None


def block_for(spec: QuantSpec, columns: int, scales: torch.dtype) -> Block:
    """The smallest block that holds rows of K = `columns` on this grid exactly; scales: the dtype of the scales."""
    whole = spec.width(columns) % LARGE == 0
    if spec.bits == 2:
        return Q2_K if whole else Q4_0
    if spec.bits == 3:
        return Q3_K if whole and spec.symmetric else Q4_0
    if spec.symmetric:
        return {4: Q4_0, 5: Q5_0}.get(spec.bits, Q8_0)
    if spec.bits > 4:
        return Q8_0
    if whole:
        return Q4_K
    # Of z and 15 - z one has at most 3 significant bits; with the 8 of bfloat16 they fit the 11 of a float16 minimum.
    return Q4_1 if scales == torch.bfloat16 else Q5_0


def encode(q: QTensor, block: Block, name: str, fix: str) -> Tensor:
    """The rows of q as blocks: (N, K / columns * nbytes) uint8. name, fix: of the tensor, for UnsupportedError."""
    n, k = q.shape
    out = torch.empty((n, k // block.columns * block.nbytes), dtype=torch.uint8)
    step = max(1, ROWS_OF // k)
    for first in range(0, n, step):
        part = slice(first, first + step)
        try:
            out[part] = block.pack(_grid(q, part, block.columns)).reshape(-1, out.shape[1])
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error}; {fix}") from None
    return out


def _grid(q: QTensor, rows: slice, columns: int) -> Grid:
    """Some rows of q in blocks of C = `columns`. A block of zeros alone gets the scale 0, which any dtype holds."""
    codes = q.codes[rows].reshape(-1, columns)
    repeat = q.spec.width(q.shape[1]) // columns
    zeros = q.zeros[rows].repeat_interleave(repeat, dim=1).reshape(-1, 1)
    scales = q.scales[rows].float().repeat_interleave(repeat, dim=1).reshape(-1, 1)
    return Grid(codes, zeros, torch.where((codes == zeros).all(-1, keepdim=True), 0, scales))


def half(values: Tensor, what: str = "scale") -> Tensor:
    """(M, 1) float32 -> their bytes (M, 2) as float16; UnsupportedError where float16 has another value."""
    stored = values.to(torch.float16)
    wrong = values[stored.float() != values]
    if len(wrong):
        raise UnsupportedError(
            f"GGUF keeps a {what} in float16, and {len(wrong)} of {len(values)} are no such numbers, for example "
            f"{float(wrong[0])!r}"
        )
    return stored.view(torch.uint8)


def nibbles(values: Tensor) -> Tensor:
    """(M, 32) uint8 below 16 -> (M, 16): value j beside value j + 16."""
    return values[:, : SMALL // 2] | values[:, SMALL // 2 :] << 4


def shifted(grid: Grid, bits: int) -> Tensor:
    """q - z moved into [0, 2**bits - 1] by half that range, (M, C) uint8."""
    signed, middle = grid.signed, 1 << (bits - 1)
    if signed.numel() and not -middle <= int(signed.min()) <= int(signed.max()) < middle:
        raise UnsupportedError(
            f"its values lie between {int(signed.min())} and {int(signed.max())} steps, beyond {bits} bits"
        )
    return (signed + middle).to(torch.uint8)


def _q4_0(grid: Grid) -> Tensor:
    """d, 16 bytes of nibbles: w = d * (code - 8)."""
    return torch.cat([half(grid.scales), nibbles(shifted(grid, 4))], dim=-1)


def _q5_0(grid: Grid) -> Tensor:
    """d, the fifth bits of 32 codes, 16 bytes of nibbles: w = d * (code - 16)."""
    codes = shifted(grid, 5)
    places = torch.arange(8, dtype=torch.uint8)
    high = ((codes >> 4).view(-1, 4, 8) << places).sum(-1, dtype=torch.uint8)
    return torch.cat([half(grid.scales), high, nibbles(codes & 15)], dim=-1)


def _q8_0(grid: Grid) -> Tensor:
    """d, 32 signed bytes: w = d * code."""
    # In 8 bits without a sign, moving by half the range wraps round to what int8 means.
    return torch.cat([half(grid.scales), shifted(grid, 8) - 128], dim=-1)


def _q4_1(grid: Grid) -> Tensor:
    """d, m, 16 bytes of nibbles: w = d * code + m.

    From below d = s, code = q, m = -z * s; from above d = -s, code = 15 - q, m = (15 - z) * s: the same weight, and of
    the two minima the one that float16 holds is taken.
    """
    below, above = -grid.scales * grid.zeros, grid.scales * (15 - grid.zeros.to(torch.int16))
    turned = below.to(torch.float16).float() != below
    scales, minima = torch.where(turned, -grid.scales, grid.scales), torch.where(turned, above, below)
    codes = torch.where(turned, 15 - grid.codes, grid.codes)
    return torch.cat([half(scales), half(minima, "minimum"), nibbles(codes)], dim=-1)


def _quarters(codes: Tensor) -> Tensor:
    """(M, 256) uint8 below 4 -> (M, 64): in each half, value j beside those at j + 32, j + 64 and j + 96."""
    parts = codes.view(-1, 2, 4, SMALL)
    return (parts << torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)).sum(2, dtype=torch.uint8).view(-1, 64)


def _q2_k(grid: Grid) -> Tensor:
    """16 pairs of 4-bit scale and minimum, 64 bytes of codes, d, dmin: w = d * scale * code - dmin * minimum.

    Here d = dmin = s, every scale is 1 and every minimum z.
    """
    pairs = (grid.zeros << 4 | 1).expand(-1, 16)
    step = half(grid.scales)
    return torch.cat([pairs, _quarters(grid.codes), step, step], dim=-1)


def _q3_k(grid: Grid) -> Tensor:
    """256 third bits, 64 bytes of low bits, 16 scales of 6 bits plus 32, d: w = d * scale * (code - 4).

    Here d = s and every scale is 1, stored as 33: low halves of 1 in 8 bytes, high quarters of 2 in 4.
    """
    codes = shifted(grid, 3)
    places = torch.arange(8, dtype=torch.uint8).view(8, 1)
    high = ((codes >> 2).view(-1, 8, SMALL) << places).sum(1, dtype=torch.uint8)
    ones = torch.tensor([0x11] * 8 + [0xAA] * 4, dtype=torch.uint8).expand(len(codes), -1)
    return torch.cat([high, _quarters(codes & 3), ones, half(grid.scales)], dim=-1)


def _q4_k(grid: Grid) -> Tensor:
    """d, dmin, 8 pairs of 6-bit scale and minimum, 128 bytes of nibbles: w = d * scale * code - dmin * minimum.

    Here d = dmin = s, every scale is 1 and every minimum z. The pairs: 4 scales, 4 minima, then 4 bytes of the low
    halves of the other scales and minima; the high bits of those are 0.
    """
    ones = torch.ones_like(grid.zeros)
    pairs = torch.cat([part.expand(-1, 4) for part in (ones, grid.zeros, ones | grid.zeros << 4)], dim=-1)
    step, parts = half(grid.scales), grid.codes.view(-1, 4, 2, SMALL)
    return torch.cat([step, step, pairs, (parts[:, :, 0] | parts[:, :, 1] << 4).view(-1, 128)], dim=-1)


Q4_0 = Block("Q4_0", SMALL, HALF_BYTES + 16, _q4_0)
Q4_1 = Block("Q4_1", SMALL, 2 * HALF_BYTES + 16, _q4_1)
Q5_0 = Block("Q5_0", SMALL, HALF_BYTES + 4 + 16, _q5_0)
Q8_0 = Block("Q8_0", SMALL, HALF_BYTES + 32, _q8_0)
Q2_K = Block("Q2_K", LARGE, 16 + 64 + 2 * HALF_BYTES, _q2_k)
Q3_K = Block("Q3_K", LARGE, 32 + 64 + 12 + HALF_BYTES, _q3_k)
Q4_K = Block("Q4_K", LARGE, 2 * HALF_BYTES + 12 + 128, _q4_k)

BLOCKS = (Q4_0, Q4_1, Q5_0, Q8_0, Q2_K, Q3_K, Q4_K)
