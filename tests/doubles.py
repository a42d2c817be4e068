"""Stand-ins that several test files use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


class Rough:
    """An approximate kernel that outbids every other and answers with a constant."""

    priority = 10**6
    approximate = True

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        return None

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        return {"codes": q.codes}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        return x.new_full((x.shape[0], packed["codes"].shape[0]), self.answer)


class FakeClock:
    """Time that passes only where a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[..., None]:
        def call(*_: object) -> None:
            self.now += seconds

        return call
