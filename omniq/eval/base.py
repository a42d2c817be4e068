"""Evaluator: one figure per predicted token, averaged over all of them; every evaluator runs in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.errors import ModelError
from omniq.registry import Registry

Forward = Callable[[Tensor], Tensor]
"""ids (B, T) -> logits (B, T, V)."""

CHUNK_VALUES = 2**24
"""Logits converted to float32 at a time: 64 MiB a model, whatever the vocabulary."""


@dataclass(frozen=True)
class Evaluator:
    """terms: log-probabilities of the original (M, V), of the quantised model (M, V) and the true tokens (M,) -> (M,).

    finish: the mean of the terms -> the metric. of: 'quantised' and 'original' look at that model alone, 'both'
    compares. summary: one line for people, with the unit.
    """

    terms: Callable[[Tensor, Tensor, Tensor], Tensor]
    of: str
    summary: str
    finish: Callable[[float], float] = float


EVALUATORS: Registry[Evaluator] = Registry("evaluator", "omniq.eval")


@dataclass(frozen=True)
class Row:
    """One measured figure over n predicted tokens."""

    metric: str
    value: float
    n: int


def evaluate(
    original: Forward | None,
    quantised: Forward,
    windows: Tensor,
    batch: int = 1,
    on_done: Callable[[int], object] = int,
) -> list[Row]:
    """windows (B, T) -> a row per evaluator, each model run once; without an original, those that need none.

    Every row is finish(sum of terms / number of terms), the terms summed in float64: batch size changes nothing.
    on_done: told the number of windows done, again and again.
    """
    names = [name for name, evaluator in EVALUATORS.items() if original or evaluator.of == "quantised"]
    sums, n = dict.fromkeys(names, 0.0), 0
    for p, q, targets in _chunks(original, quantised, windows, batch, on_done):
        n += len(targets)
        for name in names:
            sums[name] += EVALUATORS[name].terms(p, q, targets).double().sum().item()
    return [Row(name, EVALUATORS[name].finish(sums[name] / n), n) for name in names]


@torch.no_grad()
def _chunks(
    original: Forward | None, quantised: Forward, windows: Tensor, batch: int, on_done: Callable[[int], object]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Log-probabilities (M, V) float32 of both models and targets (M,), a few tokens at a time."""
    for index, ids in enumerate(windows.split(batch)):
        on_done(index * batch)
        q = quantised(ids)[:, :-1].flatten(0, 1)
        p = original(ids)[:, :-1].flatten(0, 1) if original else q
        if p.shape != q.shape:
            raise ModelError(
                f"the original has a vocabulary of {p.shape[1]}, the other model one of {q.shape[1]}; "
                "compare a quantised model with the model it was made from"
            )
        targets = ids[:, 1:].flatten().to(q.device)
        size = max(1, CHUNK_VALUES // q.shape[1])
        for a, b, target in zip(p.split(size), q.split(size), targets.split(size), strict=True):
            log_q = log_probabilities(b, "the quantised model")
            yield (log_probabilities(a, "the original").to(log_q.device) if original else log_q), log_q, target


def log_probabilities(logits: Tensor, whose: str) -> Tensor:
    """logits (M, V) of any dtype -> (M, V) float32."""
    result = logits.float().log_softmax(-1)
    if torch.isnan(result).any():
        raise not_numbers(whose)
    return result


def log_total(logits: Tensor, whose: str) -> Tensor:
    """logits (M, V) -> (M,), the logarithm of the sum of their exponentials, which a few probabilities need alone."""
    result = logits.logsumexp(-1)
    if not torch.isfinite(result).all():
        raise not_numbers(whose)
    return result


def not_numbers(whose: str) -> ModelError:
    """What is said of a model whose logits cannot be used."""
    return ModelError(
        f"{whose} gives logits that are not numbers (NaN or infinite); its weights are damaged or overflow"
    )
