"""Block-wise error minimisation: gradient descent on the pieces of one block, best iterate kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError


@dataclass(frozen=True)
class Training:
    """epochs over the samples; grid_lr for clipping or steps, let_lr for transformations (AdamW, constant).

    skip_sinks: leave tokens out of the loss whose target is far larger than the others'.
    """

    epochs: int
    grid_lr: float
    let_lr: float
    skip_sinks: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.grid_lr <= 0 or self.let_lr <= 0:
            raise UsageError(
                f"epochs={self.epochs}, lwc_lr={self.grid_lr}, let_lr={self.let_lr}: "
                "epochs must be 0 or more, rates above 0"
            )


MEASURED = 8
"""At most this many samples, evenly spaced, judge an iterate: enough to rank iterates at little cost."""


SINK = 16.0
"""A token is a sink when its squared norm exceeds this many medians. Ordinary tokens of SmolLM2 and Gemma 3 stay below
8; the first token of a sequence reaches 80 to 25,000, up to 99 % of the whole loss (SmolLM2, block 15)."""


def counted(target: Tensor, skip_sinks: bool) -> Tensor:
    """target (B, T, D) -> (B, T, 1): 1 for tokens that count in the loss, 0 for sinks when they are skipped."""
    power = target.square().mean(-1, keepdim=True)
    if not skip_sinks:
        return torch.ones_like(power)
    return (power <= SINK * power.median()).float()


def minimize(view: BlockView, block: LearnableBlock, training: Training, augmented: Tensor | None) -> None:
    """Trains `block` so that it maps view.inputs to view.target (and to `augmented`, if given), both (B, T, D).

    Loss: mean squared error, float32, divided by its first value so that step sizes do not depend on the block's
    magnitude. A step with a non-finite loss or gradient is skipped and counted; the best iterate is what remains.
    """
    targets = [view.target] if augmented is None else [view.target, augmented]
    chosen = torch.linspace(0, view.inputs.shape[0] - 1, min(MEASURED, view.inputs.shape[0])).round().long()
    streams = [view.inputs, counted(view.target, training.skip_sinks), *targets]
    samples = [stream[chosen] for stream in streams]
    first = best = _measured(view, block, samples)
    kept = block.snapshot()
    if block.parameters():
        optimizer = _optimizer(block, training)
        for _ in range(training.epochs):
            _epoch(view, block, optimizer, streams, first)
            loss = _measured(view, block, samples)
            if loss < best or not torch.isfinite(best):
                best, kept = loss, block.snapshot()
        block.restore(kept)
    power = sum(_mean_square(t, samples[1]) for t in samples[2:])
    view.trace.before, view.trace.after = float(first / power), float(best / power)


def _optimizer(block: LearnableBlock, training: Training) -> torch.optim.AdamW:
    groups = [(block.grid_parameters(), training.grid_lr), (block.transform_parameters(), training.let_lr)]
    return torch.optim.AdamW(
        [{"params": params, "lr": lr} for params, lr in groups if params], weight_decay=0.0, foreach=True
    )


def _epoch(
    view: BlockView, block: LearnableBlock, optimizer: torch.optim.AdamW, streams: list[Tensor], first: Tensor
) -> None:
    unit = first.clamp(min=torch.finfo(torch.float32).tiny) if torch.isfinite(first) else torch.ones(())
    for inputs, counts, *wanted in view.batches(*streams):
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(view.call(inputs, block.effective()), counts, wanted) / unit
        if torch.isfinite(loss):
            loss.backward()
            finite = all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in block.parameters())
            if finite:
                optimizer.step()
                block.project()
                continue
        view.trace.skipped_steps += 1


def _loss(out: Tensor, counts: Tensor, wanted: list[Tensor]) -> Tensor:
    """out and each wanted target (b, T, D) -> sum of mean squared errors over the tokens that count (b, T, 1)."""
    return sum(_mean_square(out - target.to(out.device), counts.to(out.device)) for target in wanted)


def _mean_square(x: Tensor, counts: Tensor) -> Tensor:
    return (x.square() * counts).sum() / (counts.sum().clamp(min=1) * x.shape[-1])


@torch.no_grad()
def _measured(view: BlockView, block: LearnableBlock, samples: list[Tensor]) -> Tensor:
    """Mean loss over the samples, as the final block would have it."""
    effective = block.effective()
    total, count = torch.zeros(()), 0
    for inputs, counts, *wanted in view.batches(*samples):
        total += _loss(view.call(inputs, effective), counts, wanted).cpu() * inputs.shape[0]
        count += inputs.shape[0]
    return total / count
