"""Learned rounding of one block: signed gradient descent on offsets and ranges, best iterate kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.training import counted, judges, left_out
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError

JUDGED = 4
"""How many times, evenly spaced, the block is measured for the best iterate."""


@dataclass(frozen=True)
class Tuning:
    """steps of signed gradient descent, each over `batch` sequences; rates fall linearly to zero.

    offset_lr: of the offsets, in quantisation steps; range_lr: of the factors on the ranges; both are how far one step
    can go at first, so that steps * rate / 2 is as far as anything can travel. drop: the share of the largest errors
    of a batch that does not count. skip_sinks: leave attention sinks out of the loss.
    """

    steps: int
    batch: int
    offset_lr: float
    range_lr: float
    drop: float = 0.0
    skip_sinks: bool = True

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.offset_lr < 0 or self.range_lr < 0 or not 0 <= self.drop < 1:
            raise UsageError(
                f"steps={self.steps}, batch={self.batch}, rounding_lr={self.offset_lr}, range_lr={self.range_lr}, "
                f"drop={self.drop}: steps and rates must be 0 or more, batch 1 or more, drop at least 0 and below 1"
            )


def tune(view: BlockView, block: LearnableBlock, tuning: Tuning) -> None:
    """Trains `block` so that it maps view.inputs to view.target, both (B, T, D)."""
    streams = [view.inputs, view.target, counted(view.target, tuning.skip_sinks, view.ranks)]
    chosen = judges(view)
    samples = [stream[chosen] for stream in streams]
    first = best = _measured(view, block, samples, tuning.drop)
    kept = block.snapshot()
    rates = [(block.offsets(), tuning.offset_lr), (block.grid_parameters(), tuning.range_lr)]
    count = sum(view.ranks.gathered(len(view.inputs)))
    for step, rows in enumerate(map(view.ranks.own, steps(count, tuning.steps, tuning.batch, view.seed))):
        left = 1 - step / tuning.steps
        if _gradients(view, block, [stream[rows] for stream in streams], tuning.drop):
            _descend(rates, left)
        else:
            view.trace.skipped_steps += 1
        if (step + 1) % max(1, tuning.steps // JUDGED) == 0 or step + 1 == tuning.steps:
            loss = _measured(view, block, samples, tuning.drop)
            if loss < best or not torch.isfinite(best):
                best, kept = loss, block.snapshot()
    block.restore(kept)
    view.trace.trouble.kept_start = bool(tuning.steps) and best is first
    view.trace.trouble.sinks = left_out(streams[2], view.ranks)
    size = samples[2].sum() * samples[1].shape[-1]
    power = view.ranks.mean(float((samples[1].square() * samples[2]).sum()), float(size))
    view.trace.before, view.trace.after = float(first / power), float(best / power)


def steps(count: int, wanted: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Which sequences (b,) of `count` each of `wanted` steps sees: all in a random order, then in another one.

    Every step takes one of each `batch`-th of them, so that processes which hold every n-th have equal work.
    """
    generator = torch.Generator().manual_seed(seed)
    strata = [torch.arange(first, count, batch) for first in range(min(batch, count))]
    orders = []
    for rows in strata:
        passes = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-wanted // len(rows)))]
        orders.append(torch.cat([*passes, rows[:0]])[:wanted])
    yield from torch.stack(orders, 1)


def _gradients(view: BlockView, block: LearnableBlock, streams: Sequence[Tensor], drop: float) -> bool:
    """Gradients of the loss over a step's sequences (b, T, D); whether all of them are finite.

    The effective weights are made once for all forward passes of the step.
    """
    for param in block.parameters():
        param.grad = None
    effective = block.effective()
    moving = {name: tensor for name, tensor in effective.items() if tensor.requires_grad}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
    fine = True
    for inputs, target, counts in view.batches(*streams):
        loss = _loss(view.call(inputs, effective | leaves), target, counts, drop)
        fine = fine and bool(torch.isfinite(loss))
        if not fine:
            break
        loss.backward()
    if not view.ranks.all(fine):
        return False
    # An expert that no token of the step chose has no gradient.
    summed = dict(zip(leaves, view.ranks.sums([leaf.grad for leaf in leaves.values()]), strict=True))
    reached = [name for name, grad in summed.items() if grad is not None]
    torch.autograd.backward([moving[name] for name in reached], [summed[name] for name in reached])
    return all(bool(torch.isfinite(p.grad).all()) for p in block.parameters() if p.grad is not None)


@torch.no_grad()
def _descend(rates: Sequence[tuple[Sequence[Tensor], float]], left: float) -> None:
    """One step against the sign of every gradient. left: the share of the rates that is left."""
    for params, rate in rates:
        for param in params:
            if param.grad is not None and rate:
                param.add_(param.grad.sign_(), alpha=-rate * left)


def _loss(out: Tensor, target: Tensor, counts: Tensor, drop: float) -> Tensor:
    """out, target (b, T, D), counts (b, T, 1) -> mean squared errors over what counts, summed over the sequences.

    Of each sequence the largest errors are left out, so that it does not matter which are run together.
    """
    counts = counts.to(out.device)
    error = ((out - target.to(out.device)).square() * counts).flatten(1)
    largest = int(drop * error.shape[1])
    if largest:
        bound = error.detach().topk(largest + 1, dim=1, sorted=False).values.amin(1, keepdim=True)
        error = error * (error.detach() <= bound)
    return (error.sum(1) / (counts.flatten(1).sum(1).clamp(min=1) * out.shape[-1])).sum()


@torch.no_grad()
def _measured(view: BlockView, block: LearnableBlock, samples: Sequence[Tensor], drop: float) -> Tensor:
    """Mean loss over the samples, as the final block would have it."""
    effective, total, count = block.effective(), 0.0, 0
    for inputs, target, counts in view.batches(*samples):
        total += float(_loss(view.call(inputs, effective), target, counts, drop))
        count += len(inputs)
    return torch.tensor(view.ranks.mean(total, count))
