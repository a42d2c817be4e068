"""LET: learnable equivalent transformation (Shao et al., arXiv:2308.13137, eq. 3 to 5), one class per kind of fold.

Each fold owns a positive scale, and a shift where the architecture has the biases to hide it in; `fold` rewrites a
dict of the block's parameters so that the block computes the same function. The same code serves training (on
differentiable tensors) and the final fold, so what is trained is what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor, nn

from omniq.calibrate.heads import Heads, rows
from omniq.calibrate.stats import AbsMax, MidRange
from omniq.errors import UnsupportedError
from omniq.models.adapter import Adapter, Fold, NormFold, Part, QueryKeyFold, UpFold, ValueFold

Params = dict[str, Tensor]
FLOOR = 1e-2
CLAMP = 1e-5


@dataclass(frozen=True)
class LetSpec:
    """alpha: balance of activation and weight in the starting scale. shift: learn shifts where there are biases."""

    alpha: float = 0.5
    shift: bool = True


def start_scale(act: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """act, weight (K,) channel maxima -> act**alpha / weight**(1 - alpha), both clamped at 1e-5, at least 1e-2."""
    return (act.clamp(min=CLAMP) ** alpha / weight.clamp(min=CLAMP) ** (1 - alpha)).clamp(min=FLOOR)


class Transform(Protocol):
    """One equivalent transformation with its parameters."""

    scale: Tensor
    shift: Tensor | None

    def fold(self, params: Params) -> Params:
        """The block's parameters after the transformation; names it does not touch are passed through."""

    def columns(self) -> dict[str, Tensor]:
        """What each consumer's columns are multiplied by, (K,) by name; its input is divided by the same."""

    def gathered(self, values: Tensor) -> Tensor:
        """A statistic of a consumer's input (K,) -> one value per entry of `scale`."""


def learnable(tensor: Tensor) -> Tensor:
    """A float32 leaf that trains."""
    return tensor.detach().float().clone().requires_grad_(True)


class NormTransform:
    """norm -> linears: norm weight / s, bias (b - d) / s; linear columns * s, bias + W d. scale, shift (K,)."""

    def __init__(
        self, spec: NormFold, linears: Sequence[str], offset: float, scale: Tensor, shift: Tensor | None
    ) -> None:
        self.norm, self.linears, self.offset = spec.norm, linears, offset
        self.scale = learnable(scale)
        self.shift = None if shift is None else learnable(shift)

    def columns(self) -> dict[str, Tensor]:
        """The same scale for every reader of the norm."""
        return dict.fromkeys(self.linears, self.scale)

    def gathered(self, values: Tensor) -> Tensor:
        """One value per channel already."""
        return values

    def fold(self, params: Params) -> Params:
        """See the module's docstring."""
        out = dict(params)
        weight = self.norm + ".weight"
        out[weight] = (params[weight] + self.offset) / self.scale - self.offset
        bias = self.norm + ".bias"
        if bias in params:
            out[bias] = (params[bias] - (0 if self.shift is None else self.shift)) / self.scale
        for name in self.linears:
            original = params[name + ".weight"]
            out[name + ".weight"] = original * self.scale
            if self.shift is not None:
                out[name + ".bias"] = params[name + ".bias"] + original @ self.shift
        return out


class RowTransform:
    """Output rows of a producer / s, matching columns of a consumer * s; also v -> o's shift, which passes through
    attention unchanged because its weights sum to 1. scale, shift (rows of the producer,)."""

    def __init__(
        self, producer: str, index: Tensor, consumer: str, share: tuple[int, int], scale: Tensor, shift: Tensor | None
    ) -> None:
        self.producer, self.index, self.consumer = producer, index, consumer
        self.heads, self.share = share
        self.scale = learnable(scale)
        self.shift = None if shift is None else learnable(shift)

    def _spread(self, values: Tensor) -> Tensor:
        """(rows,) -> (K of the consumer,): each KV head's values repeated for its query heads."""
        return values.view(self.heads, -1).repeat_interleave(self.share, 0).reshape(-1)

    def columns(self) -> dict[str, Tensor]:
        """The scale spread over the consumer's columns."""
        return {self.consumer: self._spread(self.scale)}

    def gathered(self, values: Tensor) -> Tensor:
        """The largest over the query heads that share a KV head."""
        return values.view(self.heads, self.share, -1).amax(1).reshape(-1)

    def fold(self, params: Params) -> Params:
        """See the module's docstring."""
        out = dict(params)
        weight, bias = self.producer + ".weight", self.producer + ".bias"
        out[weight] = _rows_divided(params[weight], self.index, self.scale)
        if bias in params:
            moved = params[bias] if self.shift is None else params[bias].index_add(0, self.index, -self.shift)
            out[bias] = _rows_divided(moved, self.index, self.scale)
        columns = params[self.consumer + ".weight"]
        out[self.consumer + ".weight"] = columns * self._spread(self.scale)
        if self.shift is not None:
            out[self.consumer + ".bias"] = params[self.consumer + ".bias"] + columns @ self._spread(self.shift)
        return out


class QueryKeyTransform:
    """q rows / s, k rows * s. One value per rotary pair and KV head (scale (kv, dim - rotary/2)): only then does the
    scale commute with the rotation and with the sharing of KV heads."""

    shift = None

    def __init__(
        self, spec: QueryKeyFold, q: Tensor | None, k: Tensor | None, heads: Heads, offset: float, device: torch.device
    ) -> None:
        self.spec, self.q, self.k, self.heads, self.offset = spec, q, k, heads, offset
        self.scale = learnable(torch.ones(1 if spec.norms else heads.kv, heads.dim - heads.rotary // 2, device=device))

    def per_head(self) -> Tensor:
        """(kv, dim): the scale with each rotary pair's value in both its places."""
        pairs, rest = self.scale.split([self.heads.rotary // 2, self.heads.dim - self.heads.rotary], dim=-1)
        return torch.cat([pairs, pairs, rest], dim=-1)

    def columns(self) -> dict[str, Tensor]:
        """No linear consumes it: scores are products of q and k."""
        return {}

    def gathered(self, values: Tensor) -> Tensor:
        """Never asked, since there is no consumer."""
        return values

    def fold(self, params: Params) -> Params:
        """See the module's docstring."""
        out = dict(params)
        scale = self.per_head()
        for part, index, factor in ((self.spec.q, self.q, 1 / scale), (self.spec.k, self.k, scale)):
            weight = part.name + ".weight"
            if self.spec.norms:
                out[weight] = (params[weight] + self.offset) * factor.view(-1) - self.offset
                continue
            spread = factor.repeat_interleave(self.heads.share if part is self.spec.q else 1, 0).reshape(-1)
            for leaf in (weight, part.name + ".bias"):
                if leaf in out:
                    out[leaf] = _rows_divided(out[leaf], index, 1 / spread)
        return out


def _rows_divided(tensor: Tensor, index: Tensor, scale: Tensor) -> Tensor:
    """Rows `index` of tensor (N, ...) divided by scale (rows,), the others as they are."""
    divisor = torch.ones(tensor.shape[0], dtype=scale.dtype, device=tensor.device).index_copy(0, index, scale)
    return tensor / divisor.view(-1, *[1] * (tensor.dim() - 1))


def matching(pattern: str, params: Params) -> list[str]:
    """Names of modules with a weight in `params` that match a glob pattern, in order of the block."""
    return [
        name.removesuffix(".weight")
        for name in params
        if name.endswith(".weight") and fnmatchcase(name, pattern + ".weight")
    ]


def statistics(
    adapter: Adapter, params: Params
) -> tuple[dict[str, list[AbsMax | MidRange]], dict[str, list[AbsMax | MidRange]]]:
    """What to watch: (by the linear whose input it is, by the norm whose output it is) -> [AbsMax, MidRange]."""
    inputs: dict[str, list[AbsMax | MidRange]] = {}
    outputs: dict[str, list[AbsMax | MidRange]] = {}
    for fold in adapter.folds:
        if isinstance(fold, NormFold):
            outputs[fold.norm] = [AbsMax(), MidRange()]
        elif isinstance(fold, ValueFold):
            inputs[fold.o] = [AbsMax(), MidRange()]
        elif isinstance(fold, UpFold):
            inputs.update({name: [AbsMax(), MidRange()] for name in matching(fold.down, params)})
    return inputs, outputs


def transforms(
    adapter: Adapter, params: Params, heads: Heads, spec: LetSpec, inputs: dict[str, list], outputs: dict[str, list]
) -> list[Transform]:
    """The transformations an adapter admits for a block with these parameters, at their starting values."""
    made: list[Transform] = []
    for fold in adapter.folds:
        made += _made(fold, adapter, params, heads, spec, inputs, outputs)
    return made


def _made(
    fold: Fold,
    adapter: Adapter,
    params: Params,
    heads: Heads,
    spec: LetSpec,
    inputs: dict[str, list],
    outputs: dict[str, list],
) -> list[Transform]:
    if isinstance(fold, NormFold):
        return [_norm(fold, adapter.norm_offset, params, spec, outputs[fold.norm])]
    if isinstance(fold, ValueFold):
        return [_value(fold, params, heads, spec, inputs[fold.o])]
    if isinstance(fold, UpFold):
        ups, downs = matching(fold.up.name, params), matching(fold.down, params)
        return [
            _up(Part(up, fold.up.part), down, params, heads, spec, inputs[down])
            for up, down in zip(ups, downs, strict=True)
        ]
    q = k = None
    device = params[fold.q.name + ".weight"].device
    if not fold.norms:
        q, k = (rows(part, heads, params[part.name + ".weight"].shape[0]).to(device) for part in (fold.q, fold.k))
    return [QueryKeyTransform(fold, q, k, heads, adapter.norm_offset, device)]


def _norm(fold: NormFold, offset: float, params: Params, spec: LetSpec, stats: list) -> NormTransform:
    linears = [name for pattern in fold.linears for name in matching(pattern, params)]
    if not linears:
        raise UnsupportedError(f"the architecture table names {fold.linears}, which this block does not have")
    columns = torch.stack([params[name + ".weight"].abs().amax(0) for name in linears]).amax(0)
    able = spec.shift and fold.norm + ".bias" in params and all(name + ".bias" in params for name in linears)
    absmax, midrange = stats
    return NormTransform(
        fold, linears, offset, start_scale(absmax.value, columns, spec.alpha), midrange.value if able else None
    )


def _value(fold: ValueFold, params: Params, heads: Heads, spec: LetSpec, stats: list) -> RowTransform:
    weight = params[fold.v.name + ".weight"]
    index = rows(fold.v, heads, weight.shape[0]).to(weight.device)
    absmax, midrange = stats
    folded = lambda values: values.view(heads.kv, heads.share, heads.dim)  # noqa: E731
    scale = start_scale(
        folded(absmax.value).amax(1).view(-1),
        folded(params[fold.o + ".weight"].abs().amax(0)).amax(1).view(-1),
        spec.alpha,
    )
    able = spec.shift and fold.v.name + ".bias" in params and fold.o + ".bias" in params
    shift = folded(midrange.value).mean(1).view(-1) if able else None
    return RowTransform(fold.v.name, index, fold.o, (heads.kv, heads.share), scale, shift)


def _up(part: Part, down: str, params: Params, heads: Heads, spec: LetSpec, stats: list) -> RowTransform:
    weight, columns = params[part.name + ".weight"], params[down + ".weight"].abs().amax(0)
    absmax = stats[0].value
    scale = torch.ones_like(columns) if absmax is None else start_scale(absmax, columns, spec.alpha)
    return RowTransform(part.name, rows(part, heads, weight.shape[0]).to(weight.device), down, (1, 1), scale, None)


def parameters_of(module: nn.Module) -> Params:
    """A block's parameters by name, detached."""
    return {name: param.detach() for name, param in module.named_parameters()}
