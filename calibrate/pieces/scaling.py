"""Searched channel scales: the power of the activations' magnitude that, folded away, costs least when rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omniq.calibrate.hidden import Hidden
from omniq.calibrate.pieces.let import FLOOR, LetSpec, Params, Transform, parameters_of, statistics, transforms
from omniq.calibrate.stats import Moments
from omniq.calibrate.view import BlockView
from omniq.grid import fake_quantize, minmax_grid


@dataclass
class Felt:
    """What the linears of a block read. grams (K, K) = sum of x x^T and means (K,) = mean |x|, by linear name.

    folds: the architecture's equivalent transformations, none where it has no table.
    """

    grams: dict[str, Tensor]
    means: dict[str, Tensor]
    folds: list[Transform] = field(default_factory=list)


@torch.no_grad()
def felt(view: BlockView, stream: Hidden) -> Felt:
    """What reaches every linear while `stream` (B, T, D) runs through the block as it stands."""
    params, order = parameters_of(view.module), view.reading_order()
    moments = {names[0]: Moments() for names in order}
    inputs, outputs = statistics(view.adapter, params) if view.adapter else ({}, {})
    watch = {name: [*inputs.get(name, []), *([moments[name]] if name in moments else [])] for name in inputs | moments}
    view.observe(stream, watch, outputs)
    width = lambda name: params[name + ".weight"].shape[1]  # noqa: E731
    found = Felt(
        {name: moments[names[0]].gram(width(name)) for names in order for name in names},
        {name: moments[names[0]].mean_abs(width(name)) for names in order for name in names},
    )
    if view.adapter:
        found.folds = transforms(view.adapter, params, view.heads, LetSpec(shift=False), inputs, outputs)
    return found


@torch.no_grad()
def searched_scales(view: BlockView, params: Params, found: Felt, grid: int) -> Params:
    """params after the best of `grid` exponents for each fold (Lin et al., arXiv:2306.00978).

    The statistics in `found` follow the rescaled inputs.
    """
    for transform in found.folds:
        params = _scaled(view, params, transform, found, grid)
    return params


def _scaled(view: BlockView, params: Params, transform: Transform, found: Felt, grid: int) -> Params:
    readers = [name for name in transform.columns() if name in view.specs]
    if not readers:
        return params
    activity = transform.gathered(torch.stack([found.means[name] for name in readers]).amax(0)).clamp(min=1e-8)
    best, best_loss = None, None
    for exponent in torch.linspace(0, 1, grid + 1)[:-1]:
        scale = activity**exponent
        transform.scale.copy_((scale / (scale.max() * scale.min()).sqrt()).clamp(min=FLOOR))
        columns = {name: column for name, column in transform.columns().items() if name in readers}
        loss = _error(view, params, columns, found.grams)
        if best_loss is None or loss < best_loss:
            best, best_loss = transform.scale.clone(), loss
    transform.scale.copy_(best)
    for name, column in transform.columns().items():
        if name in found.grams:
            found.grams[name] = found.grams[name] / torch.outer(column, column)
            found.means[name] = found.means[name] / column
    return transform.fold(params)


def _error(view: BlockView, params: Params, columns: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Squared output error of weights (N, K) rounded after their columns are multiplied by columns (K,)."""
    total = torch.zeros(())
    for name, column in columns.items():
        weight, spec = params[name + ".weight"], view.specs[name].weight
        scaled = weight * column
        delta = fake_quantize(scaled, *minmax_grid(scaled, spec, view.storage), spec) / column - weight
        total = total + ((delta @ grams[name]) * delta).sum().cpu()
    return total
