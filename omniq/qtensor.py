"""QTensor: the one in-memory form of a quantised weight."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omniq.spec import QuantSpec

INDEX_BITS = 32
"""Of the group of an input, as GPTQ stores it."""


@dataclass(frozen=True, eq=False)
class QTensor:
    """w[n, k] = (codes[n, k] - zeros[n, g(k)]) * scales[n, g(k)].

    codes: (N, K) uint8 in [0, 2**bits - 1]. scales: (N, G) in the dtype they are stored in; a symmetric scale may be
    negative. zeros: (N, G) uint8, the constant 2**(bits-1) for a symmetric spec. order: (K,) int64, which input each
    column k multiplies where groups are not of neighbouring inputs (GPTQ's act-order): that w is then w[n, order[k]].
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    spec: QuantSpec
    order: Tensor | None = None

    def __post_init__(self) -> None:
        n, k = self.codes.shape
        grid = (n, self.spec.groups(k))
        for name, tensor in (("scales", self.scales), ("zeros", self.zeros)):
            if tuple(tensor.shape) != grid:
                raise ValueError(
                    f"{name} have shape {tuple(tensor.shape)}; codes {(n, k)} with {self.spec} need {grid}"
                )
        if self.codes.dtype != torch.uint8 or self.zeros.dtype != torch.uint8:
            raise ValueError(f"codes and zeros must be uint8, got {self.codes.dtype} and {self.zeros.dtype}")
        if self.order is not None and not torch.equal(self.order.sort().values, torch.arange(k)):
            raise ValueError(f"order must hold each of the {k} inputs once")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        n, k = self.codes.shape
        return n, k

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K); computed in float32 (float64 when asked for), then cast to `dtype`."""
        work = torch.float64 if dtype == torch.float64 else torch.float32
        n, k = self.codes.shape
        codes = self.codes.view(n, self.scales.shape[1], -1).to(work)
        weight = (codes - self.zeros.to(work).unsqueeze(-1)) * self.scales.to(work).unsqueeze(-1)
        return self.by_input(weight.view(n, k)).to(dtype)

    def by_input(self, columns: Tensor) -> Tensor:
        """Something of every code (N, K), such as its step -> the same with one column for each input, in order."""
        if self.order is None:
            return columns
        return torch.empty_like(columns).index_copy_(1, self.order, columns)

    def rows(self, part: slice) -> QTensor:
        """The same for some of the N outputs."""
        return replace(self, codes=self.codes[part], scales=self.scales[part], zeros=self.zeros[part])

    def equal(self, other: QTensor) -> bool:
        """True when every stored number is the same."""
        return (
            self.spec == other.spec
            and self.same_order(other)
            and torch.equal(self.codes, other.codes)
            and torch.equal(self.scales, other.scales)
            and torch.equal(self.zeros, other.zeros)
        )

    def same_order(self, other: QTensor) -> bool:
        """Whether the columns of both belong to the same inputs."""
        if self.order is None or other.order is None:
            return self.order is other.order
        return torch.equal(self.order, other.order)

    def bits_per_weight(self) -> float:
        """Stored bits per weight: codes, scales, zero points where they are not a constant, and an order of inputs."""
        n, k = self.shape
        per_group = self.scales.element_size() * 8 + (0 if self.spec.symmetric else self.spec.bits)
        return self.spec.bits + per_group * self.scales.shape[1] / k + (0 if self.order is None else INDEX_BITS / n)
