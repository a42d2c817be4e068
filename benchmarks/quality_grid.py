"""What grid the numbers of a dense weight lie on: read off the numbers alone, so that no tool has to be believed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT = 16
"""Bits of a stored scale, or of a zero point that is no integer, where the numbers do not need 32."""
SAME = 1e-6
"""Two numbers of a group are one when they differ by less than this share of its largest: float32's own error."""
NEAR = 0.005
"""How far from a whole number, in steps, a quotient of two numbers of a group may be."""
PRECISE = 1e-5
"""A step is a 16-bit number when rounding it to one changes it by less than this share."""


@dataclass(frozen=True)
class Grid:
    """levels: the most distinct numbers in a group. zero_bits, scale_bits: what a group stores beside its codes."""

    levels: int
    zero_bits: int
    scale_bits: int


def grid_of(weight: Tensor, bits: int, width: int) -> Grid | None:
    """weight (N, K) float32 in groups of `width` columns -> its grid; None unless it fits one of 2**bits even steps.

    A group that uses few of its codes fits several grids; it counts as one of the cheapest.
    """
    groups = weight.reshape(-1, width).sort(dim=1).values
    large = groups.abs().amax(dim=1, keepdim=True)
    gaps = groups.diff(dim=1)
    fresh = gaps > SAME * large
    levels = int(fresh.sum(dim=1).max()) + 1
    if levels > 2**bits:
        return None
    lowest, span = groups[:, :1].double(), (groups[:, -1:] - groups[:, :1]).double()
    alone = large.where(large > 0, 1.0).double()
    first = gaps.where(fresh, torch.inf).amin(dim=1, keepdim=True).double().where(span > SAME * large, alone)
    step = largest_step(groups.double() - lowest, first, span, bits)
    return None if step is None else Grid(levels, *stored_bits(lowest, span, step, bits))


def largest_step(above: Tensor, first: Tensor, span: Tensor, bits: int) -> Tensor | None:
    """Numbers (G, width) above their group's lowest, smallest gap (G, 1), span (G, 1) -> the largest steps that fit.

    The smallest gap is a multiple of the step, so the step is sought among its parts. None where a group fits none.
    """
    step, left = first.clone(), torch.arange(len(first))
    for parts in range(1, 2**bits):
        count = (span[left] / first[left] * parts).round().clamp(min=1)
        trial = torch.where(span[left] > 0, span[left] / count, first[left])
        codes = above[left] / trial
        fits = ((codes - codes.round()).abs().amax(dim=1) < NEAR) & (count[:, 0] < 2**bits)
        step[left[fits]] = trial[fits]
        left = left[~fits]
        if not len(left):
            return step
    return None


def stored_bits(lowest: Tensor, span: Tensor, largest: Tensor, bits: int) -> tuple[int, int]:
    """Lowest number, span, largest step of every group (G, 1) -> bits of a zero point (0: one serves all), of a scale.

    The true step of a group is its largest or a part of it, where only some of the codes are in use.
    """
    whole, central, short = (torch.zeros_like(span, dtype=torch.bool) for _ in range(3))
    for parts in range(1, 2**bits):
        step = largest / parts
        bottom, top = lowest / step, (lowest + span) / step
        allowed = (span / step).round() < 2**bits
        integer = allowed & ((bottom - bottom.round()).abs() < NEAR)
        # Signed codes span [-half, half - 1]; a negative scale mirrors them.
        inside = torch.maximum(bottom.abs(), top.abs()).round() <= 2 ** (bits - 1)
        whole |= integer
        central |= integer & inside
        for dtype in (torch.bfloat16, torch.float16):
            short |= allowed & ((step.to(dtype).double() - step).abs() <= PRECISE * step)
        if (central & short).all():
            break
    zero = 0 if central.all() else bits if whole.all() else FLOAT
    return zero, FLOAT if short.all() else 2 * FLOAT
