"""Perplexity: exp of the mean negative log-likelihood in nats, every predicted token weighing the same."""

from __future__ import annotations

import math

from torch import Tensor

from omniq.eval.base import EVALUATORS, Evaluator

LARGEST = 700.0
"""Of what exp is taken: beyond, a perplexity is more than a float holds, and JSON has no word for infinity."""


def nll(log_p: Tensor, targets: Tensor) -> Tensor:
    """log-probabilities (M, V), true tokens (M,) -> negative log-likelihood (M,) in nats."""
    return -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def perplexity(mean_nll: float) -> float:
    """exp(mean_nll), at most exp(LARGEST)."""
    return math.exp(min(mean_nll, LARGEST))


def _quantised(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    return nll(q, targets)


def _original(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    return nll(p, targets)


EVALUATORS.add("ppl")(Evaluator(_quantised, "quantised", "perplexity of the quantised model", perplexity))
EVALUATORS.add("ppl_original")(Evaluator(_original, "original", "perplexity of the original", perplexity))
