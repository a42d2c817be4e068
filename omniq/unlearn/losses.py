"""The losses of unlearning methods as functions of log-probabilities; per sequence or per token.

The mean over a step is taken elsewhere. nll: -log p of an answer's tokens, summed over the answer, in nats. theta0: the
model before unlearning.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def npo(nll: Tensor, reference: Tensor, beta: float) -> Tensor:
    """nll under the model and under theta0 (B,) -> -(2 / beta) log sigmoid(-beta log(p / p0)) (B,)."""
    return -(2 / beta) * logsigmoid(beta * (nll - reference))


def simnpo(nll: Tensor, lengths: Tensor, beta: float, delta: float) -> Tensor:
    """nll (B,) of answers of lengths (B,) tokens -> -(2 / beta) log sigmoid(beta (nll / length - delta)) (B,)."""
    return -(2 / beta) * logsigmoid(beta * (nll / lengths - delta))


def dpo(wanted: Tensor, wanted0: Tensor, unwanted: Tensor, unwanted0: Tensor, beta: float) -> Tensor:
    """nll (B,) of a wanted and an unwanted answer, each under the model and under theta0 -> (B,).

    -(2 / beta) log sigmoid(beta (log p / p0 of the wanted - log p / p0 of the unwanted)).
    """
    return -(2 / beta) * logsigmoid(beta * ((wanted0 - wanted) - (unwanted0 - unwanted)))


def divergence(log_p: Tensor, reference: Tensor) -> Tensor:
    """log_p under the model, reference under theta0 (M, V) -> KL(theta0 || model) at each token (M,)."""
    return torch.nn.functional.kl_div(log_p, reference, reduction="none", log_target=True).sum(-1)


def steering(states: Tensor, target: Tensor) -> Tensor:
    """Hidden states (M, D), where they should be (D,) or (M, D) -> squared distance (M,)."""
    return (states - target).square().sum(-1)


def unit_vector(size: int, seed: int) -> Tensor:
    """A direction (D,): values uniform in [0, 1), of length 1, the same for the same seed."""
    values = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return values / values.norm()
