"""random_label: learn a wrong answer of the same kind, another one every epoch."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.method import UNLEARNERS, WRONG, Part, Terms, every_parameter


@UNLEARNERS.add("random_label")
@dataclass(frozen=True)
class RandomLabel:
    """alpha: weight of retaining."""

    alpha: float = 1.0

    summary = "descent on random wrong answers to the forget set's questions and on the retain set"
    target = WRONG
    contrast = False
    retains = True
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """L of the wrong answers + alpha L on the retain set."""
        return Terms(part.forget.mean_nll(), self.alpha * part.retain.mean_nll())
