"""Weights and their integer grid: weights put onto it, and weights kept so close to it that no code changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omniq.errors import ModelError, UsageError, VerificationError
from omniq.grid import encode, extrema, minmax_grid
from omniq.models.adapter import adapter_for
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec
from omniq.structure import blocks_path, linears

SHARE = 0.45
"""Of a quantisation step: how far a weight may lie from its grid point by default."""


def quantised_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that a quantiser turns into integers, by the name of their layer."""
    adapter = adapter_for(model.config.model_type, model.config.to_dict())
    blocks = adapter.blocks if adapter else blocks_path(model)
    names, _ = linears(model, blocks, adapter.skip if adapter else ())
    return {name: model.get_submodule(name).weight for name in names}


def rounded(weight: Tensor, spec: QuantSpec) -> QTensor:
    """weight (N, K) float32 -> codes and scales as the preset rtn gives them, for a model stored in float32."""
    return encode(weight, *minmax_grid(weight, spec, torch.float32), spec, torch.float32)


@torch.no_grad()
def snap(model: nn.Module, scheme: LinearSpec) -> None:
    """Puts every weight that a quantiser would turn into integers onto its own round-to-nearest grid, in place."""
    for weight in quantised_weights(model).values():
        weight.copy_(rounded(weight.float(), scheme.weight).dequantize())


def bounds(weight: Tensor, spec: QuantSpec, share: float = SHARE) -> tuple[Tensor, Tensor]:
    """weight (N, K) float32 -> lowest and highest values (N, K) that leave its codes and scales as they are.

    At most `share` of a step from the grid point, or where the weight itself lies if that is farther; inside its
    group's range, whose two ends do not move at all, since they make the scale.
    """
    q = rounded(weight, spec)
    n, k = weight.shape
    wide = lambda per_group: per_group.unsqueeze(-1).expand(n, -1, spec.width(k)).reshape(n, k)  # noqa: E731
    reach = share * wide(q.scales.float().abs())
    point = q.dequantize()
    low, high = map(wide, extrema(weight, spec))
    lower = torch.maximum(torch.minimum(point - reach, weight), low)
    upper = torch.minimum(torch.maximum(point + reach, weight), high)
    fixed = (weight == low) | (weight == high)
    return torch.where(fixed, weight, lower), torch.where(fixed, weight, upper)


class KeptCodes:
    """Keeps weights where their codes under a scheme do not change. Called after each step of training."""

    def __init__(self, model: nn.Module, scheme: LinearSpec, share: float = SHARE) -> None:
        if not 0 < share < 0.5:
            raise UsageError(f"share is {share}; it is a part of a quantisation step, above 0 and below 0.5")
        self.scheme = scheme
        self.weights: Mapping[str, nn.Parameter] = quantised_weights(model)
        with torch.no_grad():
            self.codes = {name: rounded(weight, scheme.weight) for name, weight in self.weights.items()}
            self.bounds = {name: bounds(weight, scheme.weight, share) for name, weight in self.weights.items()}

    def among(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        """Those of the parameters that are quantised: all others stay as they are, or they would carry the change."""
        kept = {id(weight) for weight in self.weights.values()}
        found = [parameter for parameter in parameters if id(parameter) in kept]
        if not found:
            raise ModelError("none of the weights that this method trains is quantised, so no code can be kept")
        return found

    @torch.no_grad()
    def __call__(self) -> None:
        """Moves every weight back between its bounds."""
        for name, weight in self.weights.items():
            weight.clamp_(*self.bounds[name])

    @torch.no_grad()
    def check(self) -> None:
        """Raises VerificationError unless every code and scale is what it was."""
        for name, weight in self.weights.items():
            if not rounded(weight, self.scheme.weight).equal(self.codes[name]):
                raise VerificationError(f"codes of {name} at {self.scheme} changed although they were to be kept")
