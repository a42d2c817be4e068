"""Searched ranges: where each group's grid begins and ends, so that the error the layer's inputs feel is least."""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.grid import affine_grid, extrema, fake_quantize, grouped
from omniq.spec import QuantSpec

SHRINK = (0.4, 1.0, 13)
"""First, last and number of ratios tried of an asymmetric range, both ends together."""
ENDS = (0.8, 0.9, 1.1, 1.25)
"""Factors tried afterwards on one end at a time."""
ROUNDS = 2
SYMMETRIC = 16
"""Ratios tried of a symmetric range, for each of the two signs of its scale."""


def diagonal_blocks(gram: Tensor, width: int) -> Tensor:
    """gram (K, K) -> its blocks on the diagonal (G, width, width)."""
    count = gram.shape[0] // width
    return torch.stack([gram[i * width : (i + 1) * width, i * width : (i + 1) * width] for i in range(count)])


def group_error(
    weight: Tensor, lo: Tensor, hi: Tensor, spec: QuantSpec, storage: torch.dtype, blocks: Tensor
) -> Tensor:
    """Squared output error of each group alone, its range being [lo, hi]: (N, G).

    weight (N, K), lo and hi (N, G), blocks (G, K/G, K/G): second moments of the inputs of each group.
    """
    grid = affine_grid(lo, hi, spec, storage)
    delta = grouped(fake_quantize(weight, *grid, spec) - weight, spec).transpose(0, 1)
    return ((delta @ blocks) * delta).sum(-1).T


class _Best:
    """The ranges of least error met so far, group by group."""

    def __init__(self, weight: Tensor, spec: QuantSpec, storage: torch.dtype, blocks: Tensor) -> None:
        self.fixed = (spec, storage, blocks)
        self.weight = weight
        self.lo, self.hi = extrema(weight, spec)
        self.error = torch.full_like(self.lo, torch.inf)

    def offer(self, lo: Tensor, hi: Tensor) -> None:
        """Takes over the ranges where they are better."""
        error = group_error(self.weight, lo, hi, *self.fixed)
        better = error < self.error
        self.lo, self.hi = torch.where(better, lo, self.lo), torch.where(better, hi, self.hi)
        self.error = torch.where(better, error, self.error)


def tries(spec: QuantSpec) -> int:
    """How many ranges of a group are compared."""
    return 2 * SYMMETRIC if spec.symmetric else SHRINK[2] + 2 * ROUNDS * len(ENDS)


@torch.no_grad()
def searched_ranges(weight: Tensor, spec: QuantSpec, storage: torch.dtype, gram: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, K), gram (K, K) = sum of x x^T -> lo <= 0 <= hi (N, G) of least output error, each group by itself.

    Symmetric: both signs of the scale, and ranges up to where the shorter side of the codes reaches the largest value.
    Asymmetric: both ends together, then one at a time.
    """
    lo, hi = extrema(weight, spec)
    best = _Best(weight, spec, storage, diagonal_blocks(gram, spec.width(weight.shape[1])))
    if spec.symmetric:
        largest, none = torch.maximum(-lo, hi), torch.zeros_like(lo)
        for ratio in torch.linspace(SHRINK[0], spec.mid / (spec.mid - 1), SYMMETRIC).tolist():
            best.offer(-ratio * largest, none)
            best.offer(none, ratio * largest)
        return best.lo, best.hi
    for ratio in torch.linspace(*SHRINK[:2], SHRINK[2]).tolist():
        best.offer(ratio * lo, ratio * hi)
    for _ in range(ROUNDS):
        for factor in ENDS:
            best.offer(factor * best.lo, best.hi)
            best.offer(best.lo, factor * best.hi)
    return best.lo, best.hi
