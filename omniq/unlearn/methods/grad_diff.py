"""grad_diff: gradient difference, up on the forget set and down on the retain set."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("grad_diff")
@dataclass(frozen=True)
class GradientDifference:
    """gamma: weight of forgetting, alpha: of retaining."""

    gamma: float = 1.0
    alpha: float = 1.0

    summary = "gradient ascent on the forget set, descent on the retain set"
    target = ANSWER
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-gamma L on the forget set + alpha L on the retain set."""
        return Terms(-self.gamma * part.forget.mean_nll(), self.alpha * part.retain.mean_nll())
