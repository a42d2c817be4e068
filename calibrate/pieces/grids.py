"""Learnable grids of one weight: MinMax learns nothing, LWC how far to clip, Step scale and zero freely."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from omniq.grid import affine_grid, extrema, minmax_grid, round_through
from omniq.spec import QuantSpec

LWC_START = 4.0


class Grid(ABC):
    """Gives the grid of a weight, differentiably in its own parameters and in the weight."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The tensors to train that decide the grid."""

    @abstractmethod
    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) float32 -> scales, zeros (N, G) float32, scales already rounded to the storage dtype."""

    def offsets(self) -> list[Tensor]:
        """The tensors to train that move weights before they are rounded."""
        return []

    def moved(self, weight: Tensor, scales: Tensor) -> Tensor:
        """The weight (N, K) that is rounded on the grid with these scales (N, G): the weight itself."""
        del scales
        return weight


class MinMax(Grid):
    """Round-to-nearest's grid, from each group's range."""

    def __init__(self, weight: Tensor, spec: QuantSpec, storage: torch.dtype) -> None:
        del weight
        self.spec, self.storage = spec, storage

    def parameters(self) -> list[Tensor]:
        """Nothing to train."""
        return []

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) -> scales, zeros (N, G)."""
        return minmax_grid(weight, self.spec, self.storage)


class LWC(Grid):
    """Learnable weight clipping (Shao et al., arXiv:2308.13137, eq. 2): each group's range times two sigmoids.

    Two raw values per group, 2 * N * G in all, starting at 4 (sigmoid 0.982). The range is measured anew from a weight
    that a learnable transformation moves; of a weight that stays as it is, once.
    """

    def __init__(self, weight: Tensor, spec: QuantSpec, storage: torch.dtype) -> None:
        shape = (weight.shape[0], spec.groups(weight.shape[1]))
        self.spec, self.storage = spec, storage
        self.start = weight
        self.range = extrema(weight, spec)
        self.upper = torch.full(shape, LWC_START, device=weight.device, requires_grad=True)
        self.lower = torch.full(shape, LWC_START, device=weight.device, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """upper and lower, (N, G) each."""
        return [self.upper, self.lower]

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) -> scales, zeros (N, G)."""
        lo, hi = self.range if weight is self.start else extrema(weight, self.spec)
        return affine_grid(self.lower.sigmoid() * lo, self.upper.sigmoid() * hi, self.spec, self.storage)


class Step(Grid):
    """Learned step size (Esser et al., arXiv:1902.08153): a factor on each scale, an offset of each zero.

    Starts at the range clipped as LWC starts; the zero point is rounded and kept in [0, 2**bits - 1].
    """

    def __init__(self, weight: Tensor, spec: QuantSpec, storage: torch.dtype) -> None:
        with torch.no_grad():
            lo, hi = extrema(weight, spec)
            clip = torch.tensor(LWC_START).sigmoid()
            scales, zeros = affine_grid(clip * lo, clip * hi, spec, storage)
        self.spec, self.storage = spec, storage
        self.start, self.zeros = scales, zeros
        self.factor = torch.ones_like(scales, requires_grad=True)
        self.offset = torch.zeros_like(zeros, requires_grad=not spec.symmetric)

    def parameters(self) -> list[Tensor]:
        """factor and, if asymmetric, offset: (N, G) each."""
        return [self.factor] if self.spec.symmetric else [self.factor, self.offset]

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) -> scales, zeros (N, G); the weight itself does not enter."""
        del weight
        scales = round_through(self.start * self.factor.clamp(min=1e-2), self.storage)
        if self.spec.symmetric:
            return scales, self.zeros
        return scales, round_through((self.zeros + self.offset).clamp(0, self.spec.qmax))


GRIDS: dict[str, type[MinMax] | type[LWC] | type[Step]] = {"none": MinMax, "lwc": LWC, "step": Step}
