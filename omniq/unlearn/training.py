"""A small trainer: AdamW on float32 weights, steps split into passes that fit the memory, everything seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from omniq.errors import ModelError, UsageError
from omniq.subject.model import Subject
from omniq.subject.scoring import Encoded
from omniq.unlearn.batch import Batch, learnt, log_probabilities, of_targets, passes

Part = TypeVar("Part")
Terms = Mapping[str, Tensor]
OnStep = Callable[[int, int, float], object]
"""Told after each step: steps done, steps in all, loss."""

SCHEDULES = ("constant", "linear", "cosine")
MIN_TOKENS = 2


@dataclass(frozen=True)
class Training:
    """lr: at its highest. epochs over the data, or `steps` in their place. batch_size: sequences per step.

    schedule: constant, linear or cosine, down to 0, after `warmup` (a share of the steps) of linear rise. clip: largest
    gradient norm. pass_tokens: padded tokens in memory at a time; it changes nothing but speed and memory. max_tokens:
    of one sequence, the rest is cut. bfloat16: matrix products in bfloat16, which some processors do faster.
    """

    lr: float = 1e-5
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 32
    schedule: str = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    pass_tokens: int = 2048
    max_tokens: int = 512
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "pass_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.max_tokens < MIN_TOKENS or (self.steps is not None and self.steps < 0):
            raise UsageError(
                f"max_tokens is {self.max_tokens} and steps is {self.steps}; "
                f"max_tokens must be {MIN_TOKENS} or more, steps 0 or more"
            )
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise UsageError(
                f"weight_decay is {self.weight_decay} and warmup is {self.warmup}; "
                "weight_decay must be 0 or more, warmup at least 0 and below 1"
            )
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}")

    def total(self, count: int) -> int:
        """Steps that training on `count` sequences takes."""
        return self.epochs * -(-count // self.batch_size) if self.steps is None else self.steps

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step` (from 0) of `total`."""
        rising = round(self.warmup * total)
        if step < rising:
            return self.lr * (step + 1) / rising
        done = (step - rising) / max(1, total - rising)
        falling = {"constant": 1.0, "linear": 1.0 - done, "cosine": (1.0 + math.cos(math.pi * done)) / 2}
        return self.lr * falling[self.schedule]

    def rng(self, *what: object) -> random.Random:
        """Random numbers of this seed for one purpose."""
        return random.Random("/".join(map(str, (self.seed, *what))))


@dataclass(frozen=True)
class Trained:
    """steps: taken or skipped. skipped: of them, for a loss or gradient that was not finite. losses: by term, a step
    each, in order."""

    steps: int
    skipped: int
    losses: tuple[Mapping[str, float], ...]

    def summary(self, count: int = 20) -> list[dict[str, float]]:
        """The losses averaged over at most `count` stretches of steps, in order; steps that were skipped left out."""
        finite = [loss for loss in self.losses if all(map(math.isfinite, loss.values()))]
        size = -(-len(finite) // count)
        return [
            {name: sum(loss[name] for loss in part) / len(part) for name in part[0]}
            for part in (finite[at : at + size] for at in range(0, len(finite), size or 1))
        ]


def orders(count: int, training: Training) -> Iterator[list[int]]:
    """Indices of the sequences of each step: every epoch in a new order, the last step of an epoch may be short."""
    left, epoch = training.total(count), 0
    while left > 0:
        order = training.rng("order", epoch).sample(range(count), count)
        for at in range(0, count, training.batch_size):
            if left > 0:
                yield order[at : at + training.batch_size]
            left -= 1
        epoch += 1


def minimise(
    parameters: Sequence[nn.Parameter],
    steps: Iterable[Sequence[Part]],
    total: int,
    loss: Callable[[Part], Terms],
    training: Training,
    project: Callable[[], object] | None = None,
    on_step: OnStep = lambda done, total, loss: None,
) -> Trained:
    """Takes a gradient step for each of `steps`, on the sum of `loss` (terms by name) over the step's parts.

    project: what to do to the weights after each step. A step whose loss or gradient is not finite is left out and
    counted; where that happens at every step, it is a ModelError.
    """
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    losses, skipped = [], 0
    for index, parts in enumerate(steps):
        optimizer.zero_grad(set_to_none=True)
        found = accumulated(parts, loss, training, parameters[0].device)
        losses.append(found)
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.clip)
        if all(map(math.isfinite, found.values())) and bool(torch.isfinite(norm)):
            for group in optimizer.param_groups:
                group["lr"] = training.rate(index, total)
            optimizer.step()
            if project is not None:
                project()
        else:
            skipped += 1
        on_step(index + 1, total, sum(found.values()))
    optimizer.zero_grad(set_to_none=True)
    if losses and skipped == len(losses):
        raise ModelError(
            f"none of {skipped} training steps had a finite loss and gradient; use a lower learning rate, "
            "or check that the model itself writes sense"
        )
    return Trained(len(losses), skipped, tuple(losses))


def accumulated(
    parts: Sequence[Part], loss: Callable[[Part], Terms], training: Training, device: torch.device
) -> dict[str, float]:
    """Adds the gradients of all parts; the sum of each term."""
    sums: dict[str, float] = {}
    for part in parts:
        with precision(training, device):
            terms = loss(part)
        whole = sum(terms.values())
        if whole.requires_grad:
            whole.backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    return sums


def precision(training: Training, device: torch.device) -> AbstractContextManager:
    """What a forward pass computes in."""
    return torch.autocast(device.type, torch.bfloat16) if training.bfloat16 else nullcontext()


def fine_tune(
    subject: Subject,
    rows: Sequence[Encoded],
    training: Training,
    on_step: OnStep = lambda done, total, loss: None,
) -> Trained:
    """Trains all weights of a subject to predict the tokens of `rows`; loss: the mean of -log p over a step's tokens.

    The model stays in eval mode: no dropout, so that the same call gives the same weights.
    """
    rows = [row.cut(training.max_tokens) for row in rows]
    parameters = list(subject.model.parameters())

    def parts(chosen: list[int]) -> list[tuple[Batch, int]]:
        taken = [rows[i] for i in chosen]
        tokens = sum(map(learnt, taken))
        groups = passes([len(row.ids) for row in taken], training.pass_tokens)
        return [(Batch.of([taken[i] for i in group], subject.device), tokens) for group in groups]

    def loss(part: tuple[Batch, int]) -> Terms:
        batch, tokens = part
        return {"loss": of_targets(log_probabilities(subject.model, batch), batch).sum() / tokens}

    subject.model.eval().requires_grad_(True)
    steps = map(parts, orders(len(rows), training))
    return minimise(parameters, steps, training.total(len(rows)), loss, training, on_step=on_step)
