"""The weight layout of the CPU library: lines of 64 bytes, each a step of 16 outputs times 4 columns (or several).

The library's csrc/cpu/problem.h says how a line is read. Columns of a weight group are padded to whole chunks (16, or
32 for 3-bit weights), rows to whole panels of 64, four strips of 16; padding holds code 0 and scale 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

PANEL = 64
STRIPS = 4
LINE = 64
STEP = 4


def stored_bits(bits: int) -> int:
    """The width a code of `bits` bits is stored in: 2, 3, 4 or 8."""
    return bits if bits <= 4 else 8


def chunk_columns(bits: int) -> int:
    """Columns of one chunk, for a stored width."""
    return 32 if bits == 3 else 16


def chunk_lines(bits: int) -> int:
    """Lines of one chunk and strip, for a stored width."""
    return {2: 1, 3: 3, 4: 2, 8: 4}[bits]


def packed_shapes(spec: QuantSpec, n: int, k: int) -> tuple[torch.Size, torch.Size]:
    """The shapes of lines (panels, G, chunks, strips, lines a chunk, 64) and of scales and zeros (panels, G, 64)."""
    bits, panels, groups = stored_bits(spec.bits), -(-n // PANEL), spec.groups(k)
    chunks = -(-spec.width(k) // chunk_columns(bits))
    return torch.Size([panels, groups, chunks, STRIPS, chunk_lines(bits), LINE]), torch.Size([panels, groups, PANEL])


def merged(steps: Tensor, bits: int, per_line: int) -> Tensor:
    """steps (..., S, 64) uint8 -> lines (..., S / per_line, 64): neighbouring steps share a byte, the first lowest."""
    fields = steps.unflatten(-2, (-1, per_line))
    shifts = torch.arange(per_line, dtype=torch.uint8).mul_(bits).view(-1, 1)
    return (fields << shifts).sum(-2, dtype=torch.uint8)


def lines_of(codes: Tensor, groups: int, bits: int) -> Tensor:
    """codes (N, K) uint8 -> lines (panels, G, chunks, strips, lines a chunk, 64) uint8."""
    n, k = codes.shape
    chunk = chunk_columns(bits)
    padded = pad(codes.view(n, groups, k // groups), (0, -(k // groups) % chunk, 0, 0, 0, -n % PANEL))
    steps = padded.view(-1, STRIPS, PANEL // STRIPS, groups, padded.shape[2] // chunk, chunk // STEP, STEP)
    steps = steps.permute(0, 3, 4, 1, 5, 2, 6).flatten(-2)
    if bits == 3:
        return torch.cat([merged(steps & 3, 2, 4), merged(steps >> 2, 1, 8)], dim=-2)
    return merged(steps, bits, 8 // bits)


def by_panel(values: Tensor) -> Tensor:
    """values (N, G) -> (panels, G, 64)."""
    return pad(values, (0, 0, 0, -values.shape[0] % PANEL)).unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()


def packed_weight(q: QTensor) -> dict[str, Tensor]:
    """QTensor -> lines, scales, zeros (asymmetric only) and sizes (N, K) int64."""
    if (top := int(q.codes.max())) > q.spec.qmax:
        raise ValueError(f"codes reach {top}, but {q.spec} ends at {q.spec.qmax}; the weight is damaged, load it again")
    packed = {
        "lines": lines_of(q.codes, q.scales.shape[1], stored_bits(q.spec.bits)),
        "scales": by_panel(q.scales),
        "sizes": torch.tensor(q.shape),
    }
    return packed if q.spec.symmetric else packed | {"zeros": by_panel(q.zeros)}


def rows_of(packed: dict[str, Tensor], spec: QuantSpec, ids: Tensor, columns: int) -> Tensor:
    """Some rows (T,) of a symmetric packed weight (N, columns) of 4 or 8 bits -> their values (T, columns) float32."""
    bits, width = stored_bits(spec.bits), spec.width(columns)
    lines = packed["lines"].unflatten(-1, (PANEL // STRIPS, STEP))
    panel, row = ids // PANEL, ids % PANEL
    steps = lines[panel, :, :, row // (PANEL // STRIPS), :, row % (PANEL // STRIPS)]
    if bits == 4:
        steps = torch.stack([steps & 15, steps >> 4], dim=-2)
    codes = steps.flatten(2)[..., :width].float() - spec.mid
    return (codes * packed["scales"][panel, :, row].float().unsqueeze(-1)).flatten(1)
