"""kl: gradient ascent, held by the divergence from the model as it was, on the retain set."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.losses import divergence
from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("kl")
@dataclass(frozen=True)
class KullbackLeibler:
    """gamma: weight of forgetting, alpha: of retaining. The divergence is KL(theta0 || model), a mean over tokens."""

    gamma: float = 1.0
    alpha: float = 1.0

    summary = "gradient ascent on the forget set, KL to the original on the retain set"
    target = ANSWER
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-gamma L on the forget set + alpha KL on the retain set."""
        kept = part.retain
        apart = kept.token_mean(divergence(kept.log_p, kept.reference_log_p))
        return Terms(-self.gamma * part.forget.mean_nll(), self.alpha * apart)
