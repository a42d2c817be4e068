"""Finished: a quantised block whose integers stay, with a factor to train on every scale and every vector's entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omniq.grid import round_through
from omniq.qtensor import QTensor


@dataclass(eq=False)
class Finished:
    """linears: by name inside the block, perhaps read anew each time. floats: its other parameters by name, of which
    vectors get factors.

    storage: dtype of scales in the checkpoint. dense: of unquantised tensors; None: the same.
    """

    linears: Mapping[str, QTensor]
    floats: dict[str, Tensor]
    storage: torch.dtype
    dense: torch.dtype | None = None
    factors: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.factors = {name: torch.ones(q.scales.shape) for name, q in self.linears.items()}
        self.factors |= {name: torch.ones(value.shape) for name, value in self.floats.items() if value.dim() == 1}

    def scaled(self) -> list[Tensor]:
        """Factors of scales."""
        return [factor for name, factor in self.factors.items() if name in self.linears]

    def bent(self) -> list[Tensor]:
        """Factors of vectors."""
        return [factor for name, factor in self.factors.items() if name not in self.linears]

    def stored(self, name: str, values: Tensor) -> Tensor:
        """values times their factor, as the checkpoint will hold them; differentiable in the factor."""
        return round_through(values.float() * self.factors[name], self._dtype(name))

    def _dtype(self, name: str) -> torch.dtype:
        """What the checkpoint stores a linear's scales, or a vector, in."""
        return self.storage if name in self.linears else self.dense or self.storage

    def parameters(self) -> dict[str, Tensor]:
        """The block's parameters by name, float32, differentiable in the factors."""
        found = {f"{name}.weight": self._weight(name, q) for name, q in self.linears.items()}
        return found | {
            name: self.stored(name, value) if name in self.factors else value for name, value in self.floats.items()
        }

    def _weight(self, name: str, q: QTensor) -> Tensor:
        n, k = q.shape
        levels = q.codes.view(n, q.scales.shape[1], -1).float() - q.zeros.float().unsqueeze(-1)
        return (levels * self.stored(name, q.scales).unsqueeze(-1)).view(n, k)

    @torch.no_grad()
    def results(self) -> tuple[dict[str, QTensor], dict[str, Tensor]]:
        """What to store: the linears with their new scales, and the vectors."""
        linears = {
            name: QTensor(q.codes, self.stored(name, q.scales).to(self.storage), q.zeros, q.spec)
            for name, q in self.linears.items()
        }
        vectors = {name: value for name, value in self.floats.items() if value.dim() == 1}
        return linears, {name: self.stored(name, value).to(self._dtype(name)) for name, value in vectors.items()}
