"""Truth ratio (TOFU): how likely false answers are beside a true one; all from mean log-probabilities in nats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST = 100.0
"""Ratios are kept within exp(±100), so that those of a collapsed model can still be summed and ranked."""


def paper_ratio(right: float, wrong: Sequence[float]) -> float:
    """R = (1/|W|) Σ p̄(wrong) / p̄(right): the arithmetic mean over the wrong answers, as the paper writes it."""
    return _ratio(float(np.logaddexp.reduce(wrong) - np.log(len(wrong))) - right)


def geometric_ratio(right: float, wrong: Sequence[float]) -> float:
    """R = exp(mean log p̄(wrong)) / p̄(right): the geometric mean, as the paper's code computes it."""
    return _ratio(float(np.mean(wrong)) - right)


def prob_mean(right: float, wrong: Sequence[float]) -> float:
    """p̄(right) / (p̄(right) + p̄(wrong)) = 1 / (1 + R), R geometric: 1 knows, 0.5 cannot tell."""
    return 1.0 / (1.0 + geometric_ratio(right, wrong))


def closer_to_one(ratio: float) -> float:
    """min(R, 1/R): 1 where true and false are equally likely, 0 where either is much the likelier."""
    return min(ratio, 1.0 / ratio)


def true_better(ratio: float) -> float:
    """max(0, 1 - R): 1 where only the truth is likely, 0 where the false answers are at least as likely."""
    return max(0.0, 1.0 - ratio)


def _ratio(difference: float) -> float:
    return float(np.exp(np.clip(difference, -LARGEST, LARGEST)))
