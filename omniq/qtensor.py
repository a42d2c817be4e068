"""QTensor: the one in-memory form of a quantised weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.spec import QuantSpec


@dataclass(frozen=True, eq=False)
class QTensor:
    """w[n, k] = (codes[n, k] - zeros[n, g(k)]) * scales[n, g(k)].

    codes: (N, K) uint8 in [0, 2**bits - 1]. scales: (N, G) in the dtype they are stored in; a symmetric scale may be
    negative. zeros: (N, G) uint8, the constant 2**(bits-1) for a symmetric spec.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    spec: QuantSpec

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
        return weight.view(n, k).to(dtype)

    def equal(self, other: QTensor) -> bool:
        """True when every stored number is the same."""
        return (
            self.spec == other.spec
            and torch.equal(self.codes, other.codes)
            and torch.equal(self.scales, other.scales)
            and torch.equal(self.zeros, other.zeros)
        )

    def bits_per_weight(self) -> float:
        """Stored bits per weight: codes, scales, and zero points where they are not a constant."""
        k = self.codes.shape[1]
        per_group = self.scales.element_size() * 8 + (0 if self.spec.symmetric else self.spec.bits)
        return self.spec.bits + per_group * self.scales.shape[1] / k
