"""awq: a searched power of the activation magnitude scales channels before rounding, then clipping is searched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.method import METHODS
from omniq.calibrate.pieces.let import FLOOR, LetSpec, Params, Transform, parameters_of, statistics, transforms
from omniq.calibrate.stats import Moments
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError
from omniq.grid import affine_grid, encode, extrema, fake_quantize, grouped, minmax_grid
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec


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
        params = parameters_of(view.module)
        order = view.reading_order()
        moments = {names[0]: Moments() for names in order}
        inputs, outputs = statistics(view.adapter, params)
        watch = {
            name: [*inputs.get(name, []), *([moments[name]] if name in moments else [])] for name in inputs | moments
        }
        view.observe(view.inputs, watch, outputs)
        grams = {n: moments[names[0]].gram(params[n + ".weight"].shape[1]) for names in order for n in names}
        means = {n: moments[names[0]].mean_abs(params[n + ".weight"].shape[1]) for names in order for n in names}
        for transform in transforms(view.adapter, params, view.heads, LetSpec(shift=False), inputs, outputs):
            params = self._scaled(view, params, transform, grams, means)
        for name, param in view.module.named_parameters():
            param.data.copy_(params[name])
        return {name: self._encoded(view, name, params[name + ".weight"], grams[name]) for name in view.specs}

    @torch.no_grad()
    def _scaled(
        self, view: BlockView, params: Params, transform: Transform, grams: dict[str, Tensor], means: dict[str, Tensor]
    ) -> Params:
        """params after the best exponent for one fold; the consumers' statistics follow their rescaled inputs."""
        readers = [name for name in transform.columns() if name in view.specs]
        if not readers:
            return params
        activity = transform.gathered(torch.stack([means[name] for name in readers]).amax(0)).clamp(min=1e-8)
        best, best_loss = None, None
        for exponent in torch.linspace(0, 1, self.grid + 1)[:-1]:
            scale = activity**exponent
            transform.scale.copy_((scale / (scale.max() * scale.min()).sqrt()).clamp(min=FLOOR))
            loss = sum(
                self._error(view, name, params[name + ".weight"], s, grams[name])
                for name, s in transform.columns().items()
                if name in readers
            )
            if best_loss is None or loss < best_loss:
                best, best_loss = transform.scale.clone(), loss
        transform.scale.copy_(best)
        for name, column in transform.columns().items():
            if name in grams:
                grams[name] = grams[name] / torch.outer(column, column)
                means[name] = means[name] / column
        return transform.fold(params)

    def _error(self, view: BlockView, name: str, weight: Tensor, column: Tensor, gram: Tensor) -> Tensor:
        """Squared output error of weight (N, K) rounded after its columns are multiplied by `column` (K,)."""
        spec = view.specs[name].weight
        scaled = weight * column
        delta = fake_quantize(scaled, *minmax_grid(scaled, spec, view.storage), spec) / column - weight
        return ((delta @ gram) * delta).sum()

    @torch.no_grad()
    def _encoded(self, view: BlockView, name: str, weight: Tensor, gram: Tensor) -> QTensor:
        """weight (N, K) with each group's range shrunk by the ratio of least error under its own inputs."""
        spec = view.specs[name].weight
        lo, hi = extrema(weight, spec)
        ratio = torch.ones_like(lo)
        if self.clip:
            blocks = diagonal_blocks(gram, spec.width(weight.shape[1]))
            tried = torch.linspace(1, 0.5, self.grid + 1)[:-1]
            errors = torch.stack(
                [_group_error(weight, affine_grid(r * lo, r * hi, spec, view.storage), spec, blocks) for r in tried]
            )
            ratio = tried.to(lo.device)[errors.argmin(0)]
        return encode(weight, *affine_grid(ratio * lo, ratio * hi, spec, view.storage), spec, view.storage)


def diagonal_blocks(gram: Tensor, width: int) -> Tensor:
    """gram (K, K) -> its blocks on the diagonal (G, width, width)."""
    count = gram.shape[0] // width
    return torch.stack([gram[i * width : (i + 1) * width, i * width : (i + 1) * width] for i in range(count)])


def _group_error(weight: Tensor, grid: tuple[Tensor, Tensor], spec: QuantSpec, blocks: Tensor) -> Tensor:
    """Squared output error of each group alone: (N, G)."""
    delta = grouped(fake_quantize(weight, *grid, spec) - weight, spec).transpose(0, 1)
    return ((delta @ blocks) * delta).sum(-1).T
