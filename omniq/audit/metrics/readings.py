"""What a linear probe reads out of the features of one layer: five ways to train it and to ask it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from omniq.audit.metrics.mdl import code_lengths
from omniq.audit.metrics.ridge import chosen_penalty, folds, predicted, standardised

FEWEST_TO_SHARE = 4
"""Forgotten people below which half of them is too few to learn from."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """N examples: their class labels (N,) of K, who they are about people (N,), and their splits (N,)."""

    labels: ndarray
    people: ndarray
    splits: ndarray
    classes: int
    seed: int = 0

    def at(self, split: str) -> ndarray:
        """Indices of the examples of a split."""
        return np.flatnonzero(self.splits == split)

    def majority(self, split: str) -> float:
        """The share of a split that is in the commonest class of retain: what a probe scores that reads nothing."""
        common = np.bincount(self.labels[self.at("retain")], minlength=self.classes).argmax()
        return float(np.mean(self.labels[self.at(split)] == common))

    def fold(self, rows: ndarray) -> ndarray:
        """Folds for cross-validation of some examples, by person."""
        return folds(self.people[rows], self.seed)


def gram_of(features: ndarray, rows: ndarray) -> ndarray:
    """features (N, D) -> inner products (N, N) after standardising all of them by those of `rows`."""
    z = standardised(features, features[rows])
    return z @ z.T


def retained(features: ndarray, own: Labelled) -> ndarray:
    """features (N, D) -> whether each retained example is read right by a probe of the other retained people (R,)."""
    train = own.at("retain")
    gram = gram_of(features[train], np.arange(len(train)))
    return chosen_penalty(gram, own.labels[train], own.classes, own.fold(train))[1]


def readings(features: ndarray, own: Labelled) -> dict[str, ndarray]:
    """features (N, D) -> by name of the reading, whether each example of its split is read right, as 0 or 1.

    r2f: trained on retain, asked about forget. f2f: with half of the forgotten people in training, asked about the
    others, both ways; not there with too few of them. control: r2f with the labels of retain dealt out anew to
    people. holdout: trained on retain, asked about holdout.
    """
    train, forget, holdout = (own.at(split) for split in ("retain", "forget", "holdout"))
    gram = gram_of(features, train)

    def right(learned: ndarray, labels: ndarray, asked: ndarray) -> ndarray:
        parts = gram[np.ix_(learned, learned)], gram[np.ix_(asked, learned)]
        found = predicted(*parts, labels, own.classes, own.fold(learned))
        return (found == own.labels[asked]).astype(np.float64)

    both = right(train, own.labels[train], np.concatenate([forget, holdout]))
    found = {"r2f": both[: len(forget)], "holdout": both[len(forget) :]}
    found["control"] = right(train, dealt(own, train), forget)
    half = folds(own.people[forget], own.seed, 2)
    if len(np.unique(own.people[forget])) >= FEWEST_TO_SHARE:
        found["f2f"] = np.zeros(len(forget))
        for side in (0, 1):
            learned = np.concatenate([train, forget[half != side]])
            found["f2f"][half == side] = right(learned, own.labels[learned], forget[half == side])
    return found


def transferred(features: ndarray, original: ndarray, own: Labelled) -> ndarray:
    """Whether a probe trained on retain in the original's features (N, D) reads forget right in these (N, D): (F,).

    Both are standardised by the original's, as the probe was.
    """
    train, forget = own.at("retain"), own.at("forget")
    learned = standardised(original[train], original[train])
    asked = standardised(features[forget], original[train])
    found = predicted(learned @ learned.T, asked @ learned.T, own.labels[train], own.classes, own.fold(train))
    return (found == own.labels[forget]).astype(np.float64)


def dealt(own: Labelled, rows: ndarray) -> ndarray:
    """Labels (R,) of a control task: every person gets the first label of another one, drawn without replacement."""
    _, first, places = np.unique(own.people[rows], return_index=True, return_inverse=True)
    order = np.random.default_rng([own.seed, len(first), own.classes]).permutation(len(first))
    return own.labels[rows][first[order]][places]


def sent(own: Labelled, count: int) -> dict[str, ndarray]:
    """Split -> `count` of its examples, drawn and in the order of sending them, for the code lengths of a split."""
    found = {}
    for stream, split in enumerate(("retain", "forget", "holdout")):
        rows = own.at(split)
        if len(rows) >= count:
            found[split] = np.random.default_rng([own.seed, stream]).permutation(rows)[:count]
    return found


def message(features: ndarray, own: Labelled, rows: ndarray) -> tuple[ndarray, int]:
    """features (N, D) -> (bits (C, R) of the labels of the rows, sent in their order, number of classes)."""
    gram = gram_of(features[rows], np.arange(len(rows)))
    return code_lengths(gram, own.labels[rows], own.classes), own.classes
