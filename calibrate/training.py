"""Block-wise error minimisation: gradient descent on the pieces of one block, best iterate kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.hidden import Hidden
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.let import Params
from omniq.calibrate.ranks import ALONE, Ranks
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


def counted(target: Hidden, skip_sinks: bool, ranks: Ranks = ALONE) -> Tensor:
    """target (B, T, D) -> (B, T, 1): 1 for tokens that count in the loss, 0 for sinks when they are skipped."""
    power = torch.cat([part.square().mean(-1, keepdim=True) for part in target.split(1)])
    if not skip_sinks:
        return torch.ones_like(power)
    return (power <= SINK * torch.cat(ranks.tensors(power)).median()).float()


def left_out(counts: Tensor, ranks: Ranks) -> int:
    """How many tokens, of all samples, counted() (B, T, 1) leaves out."""
    return sum(ranks.gathered(int((counts == 0).sum())))


def judges(view: BlockView) -> Tensor:
    """Which of this process's samples (b,) judge an iterate: MEASURED of all at most."""
    count = sum(view.ranks.gathered(len(view.inputs)))
    return view.ranks.own(torch.linspace(0, count - 1, min(MEASURED, count)).round().long())


def minimize(view: BlockView, block: LearnableBlock, training: Training, augmented: Hidden | None) -> None:
    """Trains `block` so that it maps view.inputs to view.target (and to `augmented`, if given), both (B, T, D).

    Loss: mean squared error, float32, divided by its first value so that step sizes do not depend on the block's
    magnitude. A step with a non-finite loss or gradient is skipped and counted; the best iterate is what remains.
    """
    targets = [view.target] if augmented is None else [view.target, augmented]
    streams = [view.inputs, counted(view.target, training.skip_sinks, view.ranks), *targets]
    chosen = judges(view)
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
        view.trace.trouble.kept_start = bool(training.epochs) and best is first
    view.trace.trouble.sinks = left_out(streams[1], view.ranks)
    size = samples[1].sum() * samples[2].shape[-1]
    power = sum(view.ranks.mean(float((t.square() * samples[1]).sum()), float(size)) for t in samples[2:])
    view.trace.before, view.trace.after = float(first / power), float(best / power)


def _optimizer(block: LearnableBlock, training: Training) -> torch.optim.AdamW:
    groups = [(block.grid_parameters(), training.grid_lr), (block.transform_parameters(), training.let_lr)]
    return torch.optim.AdamW(
        [{"params": params, "lr": lr} for params, lr in groups if params], weight_decay=0.0, foreach=True
    )


def _epoch(
    view: BlockView, block: LearnableBlock, optimizer: torch.optim.AdamW, streams: list[Hidden], first: Tensor
) -> None:
    unit = first.clamp(min=torch.finfo(torch.float32).tiny) if torch.isfinite(first) else torch.ones(())
    params = block.parameters()
    for batch in _turns(view, streams):
        optimizer.zero_grad(set_to_none=True)
        loss = None if batch is None else _loss_of(view, block.effective(), *batch) / unit
        counted = view.ranks.sum(None if batch is None else batch[1].sum())
        if view.ranks.all(loss is None or bool(torch.isfinite(loss))):
            if loss is not None:
                (loss / counted.clamp(min=1)).backward()
            for param, grad in zip(params, view.ranks.sums([param.grad for param in params]), strict=True):
                param.grad = grad
            if all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in params):
                optimizer.step()
                block.project()
                continue
        view.trace.skipped_steps += 1


def _turns(view: BlockView, streams: list[Hidden]) -> Iterator[tuple[Tensor, ...] | None]:
    """Batches of this process's samples, then None while others still have some."""
    own = -(-len(streams[1]) // view.calls.batch)
    most = max(view.ranks.gathered(own))
    yield from view.batches(*streams)
    yield from [None] * (most - own)


def _loss_of(view: BlockView, params: Params, inputs: Tensor, counts: Tensor, *wanted: Tensor) -> Tensor:
    """The loss of one batch (b, T, D) through the block with these parameters."""
    return _loss(view.call(inputs, params), counts, wanted)


def _loss(out: Tensor, counts: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """out and each wanted target (b, T, D) -> mean squared errors summed over the tokens that count (b, T, 1)."""
    errors = (((out - target.to(out.device)).square() * counts.to(out.device)).sum() for target in wanted)
    return sum(errors) / out.shape[-1]


@torch.no_grad()
def _measured(view: BlockView, block: LearnableBlock, samples: list[Tensor]) -> Tensor:
    """Mean loss over the samples, as the final block would have it."""
    effective = block.effective()
    total, count = 0.0, 0.0
    for batch in view.batches(*samples):
        total += float(_loss_of(view, effective, *batch))
        count += float(batch[1].sum())
    return torch.tensor(view.ranks.mean(total, count))
