"""Dequantised weights rounded once: w = (q - z) * s exactly, in float64, then the nearest value of a dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.qtensor import QTensor

VALUES = 1 << 22
"""Weights worked on at a time: in float64 a whole one would take eight times its dense size."""


@dataclass
class Error:
    """What rounding did, over all weights so far: the largest relative change, and sums of squares."""

    largest: float = 0.0
    change: float = 0.0
    total: float = 0.0

    def add(self, exact: Tensor, rounded: Tensor) -> None:
        """exact: float64; rounded: the same values after rounding."""
        moved = (rounded.double() - exact).abs_()
        self.change += float(moved.square().sum())
        self.total += float(exact.square().sum())
        # Zero stays zero, and its share of what moved is 0 / tiny.
        share = moved.div_(exact.abs().clamp_(min=torch.finfo(exact.dtype).tiny))
        self.largest = max(self.largest, float(share.max()))

    def in_words(self, dtype: torch.dtype) -> str:
        """A sentence about the rounding to `dtype`."""
        name = str(dtype).removeprefix("torch.")
        if not self.change:
            return f"every weight (q - z) * s is exact in {name}"
        whole = (self.change / self.total) ** 0.5
        return (
            f"(q - z) * s is not exact in {name}: rounding moved a weight by at most {self.largest:.1e} of itself, "
            f"all weights together by {whole:.1e} (root mean square)"
        )


def rounded(q: QTensor, dtype: torch.dtype, error: Error | None = None) -> Tensor:
    """The weight (N, K) that q stands for, rounded once to `dtype`. error: is told what the rounding did."""
    dense = torch.empty(q.shape, dtype=dtype)
    rows = max(1, VALUES // max(1, q.shape[1]))
    for first in range(0, len(dense), rows):
        part = slice(first, first + rows)
        exact = q.rows(part).dequantize(torch.float64)
        dense[part] = nearest(exact, dtype)
        if error is not None:
            error.add(exact, dense[part])
    return dense


def nearest(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 values -> the nearest of `dtype`, ties to even.

    torch rounds float64 to 16 bits by way of float32, which is twice. Here float32 is rounded to odd first: cut towards
    zero, with the last bit set wherever something was cut, so that the second rounding sees on which side it lay.
    """
    single = exact.to(torch.float32)
    if dtype.itemsize >= single.element_size():
        return single.to(dtype)
    back = single.double()
    cut = (back.abs() > exact.abs()).to(torch.int32)
    inexact = ((back != exact) & single.isfinite()).to(torch.int32)
    odd = single.view(torch.int32).sub_(cut).bitwise_or_(inexact)
    return odd.view(torch.float32).to(dtype)
