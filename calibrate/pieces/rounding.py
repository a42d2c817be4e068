"""Learned rounding: an offset of every weight before it is rounded, and factors on the ends of every group's range."""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.calibrate.pieces.grids import Grid
from omniq.grid import affine_grid
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

INSIDE = 0.45
"""How far from the middle of a code's cell, in steps, a weight may lie that is to be rounded to this code."""


class Rounding(Grid):
    """The grid of affine_grid(lower * lo, upper * hi), and offsets (N, K) in steps, added before rounding.

    After SignRound (Cheng et al., arXiv:2309.05516). lo, hi (N, G): the range to start from. codes: where given, the
    offsets start such that the weight rounds to them, and are zero where it does so by itself.
    """

    def __init__(
        self,
        weight: Tensor,
        spec: QuantSpec,
        storage: torch.dtype,
        lo: Tensor,
        hi: Tensor,
        start: QTensor | None = None,
    ) -> None:
        self.spec, self.storage = spec, storage
        self.lo, self.hi = lo, hi
        self.lower, self.upper = torch.ones_like(lo).requires_grad_(True), torch.ones_like(hi).requires_grad_(True)
        offset = torch.zeros_like(weight) if start is None else offsets_to(weight, start)
        self.offset = offset.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        """The factors lower and upper, (N, G) each."""
        return [self.lower, self.upper]

    def offsets(self) -> list[Tensor]:
        """The offsets (N, K)."""
        return [self.offset]

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) -> scales, zeros (N, G); the weight itself does not enter."""
        del weight
        return affine_grid(self.lower * self.lo, self.upper * self.hi, self.spec, self.storage)

    def moved(self, weight: Tensor, scales: Tensor) -> Tensor:
        """weight (N, K) moved by the offsets, which are in steps of scales (N, G)."""
        n, k = weight.shape
        grouped = (n, scales.shape[1], -1)
        return torch.addcmul(weight.view(grouped), self.offset.view(grouped), scales.detach().unsqueeze(-1)).view(n, k)


def offsets_to(weight: Tensor, start: QTensor) -> Tensor:
    """Offsets (N, K) in steps that make weight (N, K) round to the codes of `start`, inside their cells."""
    n, k = weight.shape
    scales, zeros = start.scales.float().unsqueeze(-1), start.zeros.float().unsqueeze(-1)
    steps = weight.view(n, start.scales.shape[1], -1) / scales
    wanted = start.codes.view(steps.shape).float() - zeros
    return (steps.clamp(wanted - INSIDE, wanted + INSIDE) - steps).view(n, k)
