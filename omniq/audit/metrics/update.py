"""What rounding leaves of a small change of weights: counts and sums of one linear that add up over many."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from omniq.qtensor import QTensor

SMALLEST, LARGEST, PER_DECADE = 1e-6, 1e2, 100
"""Ratios of change to step are counted in bins 2.3 % wide between these; what is smaller counts as 0."""

EDGES = np.logspace(
    np.log10(SMALLEST), np.log10(LARGEST), 1 + round(np.log10(LARGEST / SMALLEST) * PER_DECADE)
)  # fmt: skip

FAR = 0.75
"""Rounding moves half of the weights by less than a quarter of a step, with error feedback by half of one or so; where
half of them moved by more than this, the weights were scaled or rotated before they were rounded."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """Sums over the weights of linears, with dW = W1 - W0 and dQ = Q(W1) - Q(W0).

    flips: codes that differ. dot: <dQ, dW>. update, stored: ||dW||^2, ||dQ||^2. ratios: how many |dW| / step are below,
    in each bin between and above EDGES (E + 1,). below_half: of them below one half. apart: the median of
    |Q(W0) - W0| / step, the largest of any linear.
    """

    weights: int
    flips: int
    dot: float
    update: float
    stored: float
    ratios: np.ndarray
    below_half: int
    apart: float

    def __add__(self, other: Rounded) -> Rounded:
        """Both together."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "apart"}
        return Rounded(**sums, apart=max(self.apart, other.apart))

    @property
    def code_flips(self) -> float:
        """Share of the codes that differ."""
        return self.flips / self.weights

    @property
    def projection(self) -> float:
        """<dQ, dW> / ||dW||^2: 1 where rounding keeps the change in the mean, 0 where nothing of it is left."""
        return self.dot / self.update

    @property
    def cosine(self) -> float:
        """Between dQ and dW; 0 where no stored weight differs."""
        return self.dot / (self.update * self.stored) ** 0.5 if self.stored else 0.0

    def quantile(self, share: float) -> float:
        """The |dW| / step that this share of the weights stays below; 0 where they hardly changed."""
        below = np.cumsum(self.ratios)
        place = int(np.searchsorted(below, share * below[-1]))
        if place == 0:
            return 0.0
        if place == len(EDGES):
            return LARGEST
        inside = (share * below[-1] - below[place - 1]) / self.ratios[place]
        return float(EDGES[place - 1] * (EDGES[place] / EDGES[place - 1]) ** inside)

    def share_between(self, low: float, high: float) -> float:
        """Share of the weights with low <= |dW| / step < high, to the width of a bin."""
        lower = np.concatenate([[0.0], EDGES])
        inside = (lower >= low * (1 - 1e-9)) & (lower < high * (1 - 1e-9))
        return float(self.ratios[inside].sum() / self.weights)


@torch.no_grad()
def rounded(w0: Tensor, w1: Tensor, q0: QTensor, q1: QTensor) -> Rounded:
    """Weights (N, K) before and after the change, and both as stored -> their sums; steps are those of q0."""
    n, k = w0.shape
    steps = q0.by_input(q0.scales.float().abs().repeat_interleave(k // q0.scales.shape[1], 1))
    w0, w1, old, new = w0.float(), w1.float(), q0.dequantize(), q1.dequantize()
    change, stored = w1 - w0, new - old
    ratio = change.abs() / steps
    return Rounded(
        weights=n * k,
        flips=int((q0.by_input(q0.codes) != q1.by_input(q1.codes)).sum()),
        dot=float((change * stored).sum(dtype=torch.float64)),
        update=float(change.square().sum(dtype=torch.float64)),
        stored=float(stored.square().sum(dtype=torch.float64)),
        ratios=binned(ratio),
        below_half=int((ratio < 0.5).sum()),
        apart=float(((old - w0).abs() / steps).median()),
    )


def binned(ratio: Tensor) -> np.ndarray:
    """Ratios -> how many are below, in each bin between, and above EDGES: (E + 1,) int64."""
    places = torch.bucketize(ratio.flatten(), torch.tensor(EDGES, dtype=ratio.dtype), right=True)
    return torch.bincount(places, minlength=len(EDGES) + 1).numpy()
