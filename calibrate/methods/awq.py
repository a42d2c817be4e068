"""awq: a searched power of the activation magnitude scales channels before rounding, then clipping is searched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.method import METHODS
from omniq.calibrate.pieces.let import parameters_of
from omniq.calibrate.pieces.ranges import diagonal_blocks, group_error
from omniq.calibrate.pieces.scaling import felt, searched_scales
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError
from omniq.grid import affine_grid, encode, extrema
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


@METHODS.add("awq")
@dataclass(frozen=True)
class AWQ:
    """AWQ (Lin et al., arXiv:2306.00978).

    grid: number of exponents tried for the scale of each fold, and of clipping ratios tried. clip: search clipping.
    """

    grid: int = 20
    clip: bool = True

    summary = "searched channel scales and clipping: minutes, no training; needs the architecture's table"
    needs_data = True
    finishing = None

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise UsageError(f"grid is {self.grid}; it must be 1 or more")

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Scales fold along the architecture's table."""
        if adapter is None:
            return (
                "awq needs a table of this architecture, and omniq/models has none; "
                "add a file there, or use preset gptq"
            )
        return None

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """QTensor by linear name; folds the scales into view.module."""
        found = felt(view, view.inputs)
        params = searched_scales(view, parameters_of(view.module), found, self.grid)
        for name, param in view.module.named_parameters():
            param.data.copy_(params[name])
        return {name: self._encoded(view, name, params[name + ".weight"], found.grams[name]) for name in view.specs}

    @torch.no_grad()
    def _encoded(self, view: BlockView, name: str, weight: Tensor, gram: Tensor) -> QTensor:
        """weight (N, K) with each group's range shrunk by the ratio of least error under its own inputs."""
        spec = view.specs[name].weight
        lo, hi = extrema(weight, spec)
        ratio = torch.ones_like(lo)
        if self.clip:
            blocks = diagonal_blocks(gram, spec.width(weight.shape[1]))
            tried = torch.linspace(1, 0.5, self.grid + 1)[:-1]
            errors = torch.stack([group_error(weight, r * lo, r * hi, spec, view.storage, blocks) for r in tried])
            ratio = tried.to(lo.device)[errors.argmin(0)]
        return encode(weight, *affine_grid(ratio * lo, ratio * hi, spec, view.storage), spec, view.storage)
