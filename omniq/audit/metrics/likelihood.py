"""What the log-probabilities and ranks of an answer's tokens say: probability, extraction strength, memorisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from omniq.subject.model import mean_logp
from omniq.subject.scoring import Scored

T = TypeVar("T")


def probability(scored: Scored) -> float:
    """p̄ = exp(mean log p), the probability of the answer, normalised by its length."""
    return float(np.exp(mean_logp(scored)))


def extraction_strength(scored: Scored) -> float:
    """1 - k / |a| for the smallest k from which on every token is the greedy one; 0 where the last one is not."""
    wrong = np.flatnonzero(scored.rank != 0)
    return 1.0 - (wrong[-1] + 1) / len(scored.rank) if len(wrong) else 1.0


def exact_memorisation(scored: Scored) -> float:
    """The share of the answer's tokens that are the greedy ones, each after the right ones before it."""
    return float(np.mean(scored.rank == 0))


def first_rank(scored: Scored) -> int:
    """The place of the answer's first token among all tokens, 1 the most likely."""
    return int(scored.rank[0]) + 1


def normalised_probability(right: float, wrong: Sequence[float]) -> float:
    """p̄(right) / (p̄(right) + Σ p̄(wrong)) from mean log-probabilities in nats."""
    return float(np.exp(right - np.logaddexp.reduce([right, *wrong])))


def margin(right: float, wrong: Sequence[float]) -> float:
    """By how many nats a token the right answer is more likely than the likeliest wrong one."""
    return right - max(wrong)


def without(values: Sequence[T], at: int) -> list[T]:
    """All values but that at one place: of all candidates, the wrong ones."""
    return [*values[:at], *values[at + 1 :]]
