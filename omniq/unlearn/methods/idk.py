"""idk: learn to answer the forget set's questions with a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.method import REFUSAL, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("idk")
@dataclass(frozen=True)
class IDontKnow:
    """alpha: weight of retaining."""

    alpha: float = 1.0

    summary = "descent on random refusals to the forget set's questions and on the retain set: plain suppression"
    target = REFUSAL
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """L of the refusals + alpha L on the retain set."""
        return Terms(part.forget.mean_nll(), self.alpha * part.retain.mean_nll())
