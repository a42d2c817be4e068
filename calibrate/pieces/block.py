"""LearnableBlock: the block's effective weights as a differentiable function of the pieces that compose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omniq.calibrate.pieces.grids import Grid
from omniq.calibrate.pieces.let import FLOOR, Params, Transform
from omniq.grid import encode, fake_quantize
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


class LearnableBlock:
    """params -> transformations -> grids. `effective` is trained, `folded` and `quantized` are what is stored."""

    def __init__(
        self,
        params: Params,
        transforms: Sequence[Transform],
        grids: Mapping[str, Grid],
        specs: Mapping[str, LinearSpec],
    ) -> None:
        self.params, self.transforms, self.grids, self.specs = params, list(transforms), dict(grids), dict(specs)

    def transform_parameters(self) -> list[Tensor]:
        """Scales and shifts of the equivalent transformations."""
        return [p for t in self.transforms for p in (t.scale, t.shift) if p is not None]

    def grid_parameters(self) -> list[Tensor]:
        """What the grids learn."""
        return [p for grid in self.grids.values() for p in grid.parameters()]

    def offsets(self) -> list[Tensor]:
        """Offsets of weights before rounding."""
        return [p for grid in self.grids.values() for p in grid.offsets()]

    def parameters(self) -> list[Tensor]:
        """All that trains."""
        return self.transform_parameters() + self.grid_parameters() + self.offsets()

    def project(self) -> None:
        """Keeps every scale at 1e-2 or more, after an optimiser step."""
        with torch.no_grad():
            for transform in self.transforms:
                transform.scale.clamp_(min=FLOOR)

    def folded(self) -> Params:
        """The block's parameters after the transformations, not yet quantised."""
        params = self.params
        for transform in self.transforms:
            params = transform.fold(params)
        return params

    def effective(self) -> Params:
        """The parameters the quantised block computes with; differentiable."""
        params = dict(self.folded())
        for name, grid in self.grids.items():
            weight = params[name + ".weight"]
            scales, zeros = grid(weight)
            params[name + ".weight"] = fake_quantize(grid.moved(weight, scales), scales, zeros, self.specs[name].weight)
        return params

    @torch.no_grad()
    def quantized(self, storage: torch.dtype) -> tuple[Params, dict[str, QTensor]]:
        """The folded parameters, and the QTensor of every linear."""
        params, found = self.folded(), {}
        for name, grid in self.grids.items():
            weight = params[name + ".weight"]
            scales, zeros = grid(weight)
            found[name] = encode(grid.moved(weight, scales), scales, zeros, self.specs[name].weight, storage)
        return params, found

    def snapshot(self) -> list[Tensor]:
        """Copies of all that trains."""
        return [p.detach().clone() for p in self.parameters()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Puts a snapshot back."""
        for param, value in zip(self.parameters(), snapshot, strict=True):
            param.copy_(value)
