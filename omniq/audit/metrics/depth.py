"""Unlearning depth score (UDS): how much of what a never-trained model lacks in its layers another one lacks too."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

SMALLEST_GAP = 0.05
"""Nats a token by which a layer of the never-trained model must fall short for the layer to hold the knowledge."""


def depth_scores(gap: ndarray, drop: ndarray) -> ndarray:
    """gap, drop (N, L): what the never-trained and the tested model's states cost at each layer, in nats a token.

    -> (N,) Σ gap clip(drop / gap, 0, 1) / Σ gap over the layers with a gap; nan for an item that has none.
    """
    holding = gap > SMALLEST_GAP
    weight = np.where(holding, gap, 0.0)
    total = weight.sum(1)
    missing = np.where(holding, np.clip(drop, 0.0, weight), 0.0).sum(1)
    return np.divide(missing, total, out=np.full(len(gap), np.nan), where=total > 0)
