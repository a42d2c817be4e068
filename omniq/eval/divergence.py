"""How far the quantised model's next-token distributions are from the original's."""

from __future__ import annotations

from torch import Tensor

from omniq.eval.base import EVALUATORS, Evaluator


def kl(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    """log-probabilities of the original p (M, V) and of the quantised model q (M, V) -> KL(p || q) (M,) in nats."""
    # A token that the original excludes (log-probability -inf) adds nothing, whatever q says of it.
    return (p.exp() * (p - q)).masked_fill(p.isneginf(), 0.0).sum(-1)


def same_top(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    """(M, V), (M, V) -> 1.0 where both models have the same most likely token, else 0.0, (M,)."""
    return (p.argmax(-1) == q.argmax(-1)).float()


EVALUATORS.add("kl")(Evaluator(kl, "both", "KL divergence from the original, nats per token"))
EVALUATORS.add("top1")(Evaluator(same_top, "both", "share of tokens with the same most likely next token"))
