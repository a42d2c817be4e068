"""fast, default, best: searched scales and ranges, compensated integers, learned rounding, scales tuned end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.endtoend import EndToEnd
from omniq.calibrate.method import METHODS
from omniq.calibrate.methods.gptq import GPTQ, solve_together
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.let import Params, parameters_of
from omniq.calibrate.pieces.ranges import searched_ranges
from omniq.calibrate.pieces.rounding import Rounding
from omniq.calibrate.pieces.scaling import Felt, felt, searched_scales
from omniq.calibrate.tuning import Tuning, tune
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError
from omniq.grid import affine_grid, extrema
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

STATISTICS = 1 << 15
"""Tokens from which second moments are taken, at most."""


@METHODS.add("default")
@dataclass(frozen=True)
class Default:
    """scaling: exponents searched for channel scales, 0 for none. search_ranges: search where every grid begins and
    ends, else it spans the weights. compensate: start from GPTQ's integers (damp: its).

    steps of signed gradient descent on rounding and ranges, each over `batch` sequences. rounding_lr, range_lr: how far
    the first step goes; None means 1 / steps and half of that, and half of both from compensated integers, which larger
    steps undo before they find better ones. drop: share of the largest errors that does not count. skip_sinks: nor do
    attention sinks. final_epochs over the samples end to end, by the KL to the original, final_batch sequences a step;
    scale_lr, norm_lr: rates of its factors.
    """

    scaling: int = 20
    compensate: bool = True
    damp: float = 0.01
    steps: int = 60
    batch: int = 4
    rounding_lr: float | None = None
    range_lr: float | None = None
    drop: float = 0.001
    skip_sinks: bool = True
    final_epochs: int = 1
    final_batch: int = 1
    scale_lr: float = 1e-3
    norm_lr: float = 1e-3
    search_ranges: bool = True

    summary = "searched scales and ranges, learned rounding, scales tuned end to end: minutes for small models"
    needs_data = True

    def __post_init__(self) -> None:
        if self.scaling < 0:
            raise UsageError(f"scaling is {self.scaling}; it must be 0 or more")
        GPTQ(damp=self.damp)
        self.tuning()
        self.end_to_end()

    def tuning(self) -> Tuning:
        """The settings of the training of one block."""
        usual = (0.5 if self.compensate else 1.0) / max(self.steps, 1)
        rounding = usual if self.rounding_lr is None else self.rounding_lr
        ranges = usual / 2 if self.range_lr is None else self.range_lr
        return Tuning(self.steps, self.batch, rounding, ranges, self.drop, self.skip_sinks)

    def end_to_end(self) -> EndToEnd:
        """The settings of the training of all blocks."""
        return EndToEnd(self.final_epochs, self.final_batch, self.scale_lr, self.norm_lr)

    @property
    def finishing(self) -> EndToEnd | None:
        """What is tuned end to end after the last block, or None."""
        return self.end_to_end() if self.final_epochs else None

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Serves every scheme and architecture; without a table there are no channel scales to search."""

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """QTensor by linear name; folds the scales into view.module."""
        found = felt(view, view.inputs[: view.ranks.share(max(1, STATISTICS // view.inputs.shape[1]))])
        params = parameters_of(view.module)
        if self.scaling:
            params = searched_scales(view, params, found, self.scaling)
        grids = self._roundings(view, params, found)
        block = LearnableBlock(params, [], grids, view.specs)
        del found
        with view.quantized_activations():
            tune(view, block, self.tuning())
        final, quantized = block.quantized(view.storage)
        for name, param in view.module.named_parameters():
            param.data.copy_(final[name])
        return quantized

    def _roundings(self, view: BlockView, params: Params, found: Felt) -> dict[str, Rounding]:
        """Learnable rounding of every linear, from its searched ranges and, if asked, from compensated integers."""
        weights = {name: params[f"{name}.weight"].detach() for name in view.specs}
        grams = {name: found.grams[name].to(weight.device) for name, weight in weights.items()}
        specs = {name: spec.weight for name, spec in view.specs.items()}
        ranges = {
            name: searched_ranges(weight, specs[name], view.storage, grams[name])
            if self.search_ranges
            else extrema(weight, specs[name])
            for name, weight in weights.items()
        }
        starts: dict[str, QTensor] = {}
        for names in alike(grams, specs) if self.compensate else ():
            grids = {name: affine_grid(*ranges[name], specs[name], view.storage) for name in names}
            own, first = {name: weights[name] for name in names}, names[0]
            damped = GPTQ(damp=self.damp)
            starts |= solve_together(
                own, grams[first], specs[first], view.storage, damped, grids, trouble=view.trace.trouble
            )
        return {
            name: Rounding(weight, specs[name], view.storage, *ranges[name], starts.get(name))
            for name, weight in weights.items()
        }


def alike(grams: Mapping[str, Tensor], specs: Mapping[str, QuantSpec]) -> list[list[str]]:
    """Names of linears in sets that feel the same inputs and have the same grid, so that one factor serves each set."""
    found: list[list[str]] = []
    for name, gram in grams.items():
        same = (s for s in found if specs[s[0]] == specs[name] and torch.equal(grams[s[0]], gram))
        if (known := next(same, None)) is None:
            found.append([name])
        else:
            known.append(name)
    return found


@METHODS.add("fast")
@dataclass(frozen=True)
class Fast(Default):
    """Default without gradients."""

    steps: int = 0
    final_epochs: int = 0

    summary = "searched scales and ranges, compensated integers, no training: a minute or two for small models"


@METHODS.add("best")
@dataclass(frozen=True)
class Best(Default):
    """Default with more steps."""

    steps: int = 200
    final_epochs: int = 2

    summary = "as default with more steps of both kinds: the best quality, several times as long"
