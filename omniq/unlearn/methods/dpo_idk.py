"""dpo_idk: direct preference optimisation (Rafailov et al., arXiv:2305.18290) of a refusal over the true answer."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.losses import dpo
from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("dpo_idk")
@dataclass(frozen=True)
class PreferRefusal:
    """beta: how soon the preference is strong enough. gamma, alpha: weights of forgetting and retaining."""

    beta: float = 0.1
    gamma: float = 1.0
    alpha: float = 1.0

    summary = "prefer a refusal to the true answer on the forget set, descent on the retain set"
    target = ANSWER
    contrast = True
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-(2 gamma / beta) log sigmoid(beta [log p/p0 (refusal) - log p/p0 (answer)]) + alpha L on the retain set."""
        answer, refusal = part.forget, part.refusal
        values = dpo(refusal.nll, refusal.reference_nll, answer.nll, answer.reference_nll, self.beta)
        return Terms(self.gamma * answer.mean(values), self.alpha * part.retain.mean_nll())
