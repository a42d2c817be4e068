"""ga: gradient ascent on the forget set's answers."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms, every_parameter


@UNLEARNERS.add("ga")
@dataclass(frozen=True)
class GradientAscent:
    """Minimises -mean nll per token on the forget set, and nothing holds the rest in place."""

    summary = "gradient ascent on the forget set alone; collapses first"
    target = ANSWER
    contrast = False
    retains = False
    lr = 1e-5
    epochs = 10
    trained = every_parameter

    def loss(self, part: Part) -> Terms:
        """-L on the forget set."""
        return Terms(-part.forget.mean_nll())
