"""Membership inference: scores of a text that are higher the less it looks like one the model was trained on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy import ndarray

from omniq.subject.scoring import Scored

SMALLEST_DEVIATION = 1e-3
"""Of the log-probabilities at a token, in nats: the square root of the usual 1e-6 under their variance."""

SMALLEST_DENOMINATOR = 0.05
"""Below this, PrivLeak divides by so little that the number says nothing."""


def loss(text: str, scored: Scored) -> float:
    """Mean negative log-probability in nats a token."""
    return -float(scored.logp.mean())


def zlib_ratio(text: str, scored: Scored) -> float:
    """The loss divided by the bytes that zlib needs for the text."""
    return loss(text, scored) / len(zlib.compress(text.encode("utf-8")))


def lowest_mean(values: ndarray, share: float) -> float:
    """Mean of the lowest `share` of the values (A,), one of them at least."""
    return float(np.sort(values)[: max(1, int(share * len(values)))].mean())


def min_k(text: str, scored: Scored, share: float) -> float:
    """Min-K%: minus the mean of the lowest log-probabilities."""
    return -lowest_mean(scored.logp, share)


def min_k_plus_plus(text: str, scored: Scored, share: float) -> float:
    """Min-K%++: as min_k, each log-probability standardised by mean and deviation under the model at its token."""
    return -lowest_mean((scored.logp - scored.mean) / np.maximum(scored.deviation, SMALLEST_DEVIATION), share)


SCORES: dict[str, Callable[[str, Scored], float]] = {
    "mia_loss": loss,
    "mia_zlib": zlib_ratio,
    "mia_mink20": partial(min_k, share=0.2),
    "mia_mink40": partial(min_k, share=0.4),
    "mia_minkpp": partial(min_k_plus_plus, share=0.2),
}
"""text, Scored with moments -> a score, by the name of its metric."""


def privleak(auc: float, reference: float) -> float | None:
    """MUSE's PrivLeak from two AUC that are 1 where the forget set looks like training data; None: it would explode.

    MUSE's own AUC is 1 less these. -100: fully a member, not unlearned. 0: as the reference. Above: over-unlearned.
    """
    ideal = 1.0 - reference
    return None if ideal < SMALLEST_DENOMINATOR else 100.0 * ((1.0 - auc) - ideal) / ideal
