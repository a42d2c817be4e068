"""simnpo: NPO without a reference model, on the likelihood per token (Fan et al., arXiv:2410.07163)."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.losses import simnpo
from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("simnpo")
@dataclass(frozen=True)
class SimNPO:
    """delta: nll per token at which an answer counts as half forgotten. gamma, alpha: weights of forget and retain."""

    beta: float = 4.5
    delta: float = 0.0
    gamma: float = 0.125
    alpha: float = 1.0

    summary = "NPO on the likelihood per token, without the original; descent on the retain set"
    target = ANSWER
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-(2 gamma / beta) log sigmoid(beta (L - delta)) on the forget set + alpha L on the retain set."""
        forget = part.forget
        pushed = forget.mean(simnpo(forget.nll, forget.lengths, self.beta, self.delta))
        return Terms(self.gamma * pushed, self.alpha * part.retain.mean_nll())
