"""Online code: how many bits the labels cost whoever is sent them block by block and learns from what came before.

Voita and Titov, "Information-Theoretic Probing with Minimum Description Length", with ridge classifiers in place of
gradient descent. How sharp their estimates are, and the penalty, is chosen for the whole message and sent first.
Uniform estimates are among the choices, so that a code that is not there costs those few bits more than none, not many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy import ndarray

from omniq.audit.metrics.ridge import PENALTIES, scores

SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where the blocks end, in shares of the examples."""

SHARPNESS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Factors of a class's estimate, from 0 to 1, in the exponent of its probability; 0 makes all equally likely."""

CHOICES = len(PENALTIES) * len(SHARPNESS)
"""How many codes a sender may choose from."""

SMALLEST = 1e-3
"""Bits below which no label is counted, which keeps ratios finite."""


def block_ends(count: int) -> list[int]:
    """After how many of `count` examples each block ends; the first holds one at least."""
    return sorted({max(1, math.ceil(share * count)) for share in SHARES})


def code_lengths(gram: ndarray, labels: ndarray, classes: int) -> ndarray:
    """gram (N, N), labels (N,) in the order of sending -> bits that each label costs in each of CHOICES (C, N)."""
    bits = np.full((len(PENALTIES), len(SHARPNESS), len(labels)), math.log2(classes))
    for start, end in pairwise(block_ends(len(labels))):
        known, sent = np.arange(start), np.arange(start, end)
        parts = gram[np.ix_(known, known)], gram[np.ix_(sent, known)], labels[:start]
        for row, penalty in enumerate(PENALTIES):
            found = smoothed(*parts, classes, penalty)
            for column, sharpness in enumerate(SHARPNESS):
                logits = sharpness * found
                log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
                bits[row, column, start:end] = -log_p[np.arange(end - start), labels[sent]] / math.log(2)
    return bits.reshape(CHOICES, -1)


def smoothed(gram: ndarray, cross: ndarray, labels: ndarray, classes: int, penalty: float) -> ndarray:
    """Ridge estimates (M, K) from which classes not seen yet are not shut out: each counts as seen once more."""
    seen = len(labels)
    return (seen * scores(gram, cross, labels, classes, penalty) + 1.0) / (seen + classes)


def compressions(messages: Sequence[tuple[ndarray, int]]) -> list[ndarray]:
    """(bits (C, N) of a message's labels, K) of each -> log2 K over the bits of each label (N,), in the shortest code.

    One choice is made for all messages and paid for once. Their harmonic mean is the compression, n log2 K / L.
    """
    best = int(np.sum([bits.sum(1) for bits, _ in messages], 0).argmin())
    extra = math.log2(CHOICES) / sum(bits.shape[1] for bits, _ in messages)
    return [math.log2(classes) / np.maximum(bits[best] + extra, SMALLEST) for bits, classes in messages]
