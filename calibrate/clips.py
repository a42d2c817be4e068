"""How far activation grids are clipped: for every tensor that linears read, the share of its range with least error.

A few large values decide a token's range, and all others pay with coarser steps. The ratio is judged by the outputs of
the linears that read the tensor, on tokens of the calibration text; sinks, whose values are unlike all others, do not
count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from omniq.calibrate.ranks import Ranks
from omniq.calibrate.training import SINK
from omniq.calibrate.view import BlockView
from omniq.grid import fake_quantize_tokens
from omniq.spec import ActSpec, LinearSpec

RATIOS = tuple(ratio / 100 for ratio in range(100, 48, -4))
"""Shares of the range that are tried; the finest grids lose least at 1, those of 4 bits near 0.8."""
TOKENS = 1024
"""Tokens that judge a ratio, at most."""


class Rows:
    """Up to TOKENS rows of what a linear reads, evenly spread over every batch."""

    def __init__(self, batches: int) -> None:
        self.share, self.parts = -(-TOKENS // batches), []

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        chosen = torch.linspace(0, len(x) - 1, min(self.share, len(x))).round().long()
        self.parts.append(x[chosen].detach().float())

    def combine(self, ranks: Ranks) -> None:
        """The rows of all."""
        self.parts = ranks.tensors(torch.cat(self.parts) if self.parts else None)

    def value(self) -> Tensor | None:
        """The rows kept, without sinks; None when none arrived."""
        if not self.parts:
            return None
        kept = torch.cat(self.parts)
        power = kept.square().sum(-1)
        return kept[power <= SINK * power.median()]


def clipped(view: BlockView) -> dict[str, LinearSpec]:
    """view.specs with the clip of least error where a linear quantises its input; one for all that read a tensor."""
    specs = dict(view.specs)
    order = [[name for name in names if specs[name].input is not None] for names in view.reading_order()]
    order = [names for names in order if names]
    seen = {names[0]: Rows(view.batch_count()) for names in order}
    view.observe(view.inputs, {name: (rows,) for name, rows in seen.items()})
    for names in order:
        tokens = seen[names[0]].value()
        if tokens is None:
            continue
        weights = torch.cat([view.linear(name).weight.detach() for name in names])
        clip = best_clip(tokens, weights, specs[names[0]].input, RATIOS)
        for name in names:
            specs[name] = replace(specs[name], input=replace(specs[name].input, clip=clip))
    return specs


@torch.no_grad()
def best_clip(tokens: Tensor, weight: Tensor, spec: ActSpec, ratios: Iterable[float]) -> float:
    """tokens (M, K), weight (N, K) of all that read them -> the ratio whose grid changes tokens @ weight.T least.

    Relative to each token's own power, so that large tokens do not decide alone.
    """
    unit = tokens.square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    gram = weight.T @ weight

    def error(ratio: float) -> float:
        delta = (fake_quantize_tokens(tokens, replace(spec, clip=ratio)) - tokens) / unit
        return float(((delta @ gram) * delta).sum())

    return min(ratios, key=error)
