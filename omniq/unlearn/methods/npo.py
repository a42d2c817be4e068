"""npo: negative preference optimisation (Zhang et al., arXiv:2404.05868), a bounded gradient ascent."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.losses import npo
from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("npo")
@dataclass(frozen=True)
class NPO:
    """beta: how soon forgetting ends; towards 0 it is gradient ascent. gamma, alpha: weights of forget and retain."""

    beta: float = 0.1
    gamma: float = 1.0
    alpha: float = 1.0

    summary = "negative preference optimisation on sequence likelihoods, descent on the retain set"
    target = ANSWER
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-(2 gamma / beta) log sigmoid(-beta log(p / p0)) on the forget set + alpha L on the retain set."""
        forget = part.forget
        pushed = forget.mean(npo(forget.nll, forget.reference_nll, self.beta))
        return Terms(self.gamma * pushed, self.alpha * part.retain.mean_nll())
