"""Closed-form ridge classifiers on inner products: one-hot targets, an intercept, the penalty by cross-validation.

N training and M test examples of D features are given by their inner products, gram (N, N) and cross (M, N), so that
the cost does not depend on D. The same numbers always give the same classifier.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

PENALTIES = (1.0, 10.0, 100.0)
"""Added to the sums of squares of standardised features."""

FOLDS = 5


def standardised(features: ndarray, like: ndarray) -> ndarray:
    """features (M, D) with mean and deviation of `like` (N, D) taken out, float64; what is constant there becomes 0."""
    like = like.astype(np.float64)
    centre, deviation = like.mean(0), like.std(0)
    constant = deviation <= 1e-6 * (1.0 + np.abs(centre))
    return np.where(constant, 0.0, (features.astype(np.float64) - centre) / np.where(constant, 1.0, deviation))


def scores(gram: ndarray, cross: ndarray, labels: ndarray, classes: int, penalty: float) -> ndarray:
    """gram (N, N), cross (M, N), labels (N,) -> estimates of how likely each class is (M, K), summing to 1 in a row.

    Minimises the squared error on one-hot labels plus penalty times the squared weights; the intercept is free.
    """
    targets = np.eye(classes)[labels]
    centre, mean = targets.mean(0), gram.mean(0)
    overall = mean.mean()
    own = gram - mean - mean[:, None] + overall
    other = cross - mean - cross.mean(1, keepdims=True) + overall
    weights = np.linalg.solve(own + penalty * np.eye(len(own)), targets - centre)
    return centre + other @ weights


def folds(people: ndarray, seed: int, count: int = FOLDS) -> ndarray:
    """people (N,), who each example is about -> its fold (N,); all examples of a person are in the same one."""
    unique, places = np.unique(people, return_inverse=True)
    order = np.random.default_rng([seed, len(unique)]).permutation(len(unique))
    return order[places] % count


def cross_validated(gram: ndarray, labels: ndarray, classes: int, fold: ndarray, penalty: float) -> ndarray:
    """Whether each example (N,) is classified right by a classifier trained on the other folds."""
    right = np.zeros(len(labels), dtype=bool)
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(train):
            found = scores(gram[np.ix_(train, train)], gram[np.ix_(test, train)], labels[train], classes, penalty)
            right[test] = found.argmax(1) == labels[test]
    return right


def chosen_penalty(gram: ndarray, labels: ndarray, classes: int, fold: ndarray) -> tuple[float, ndarray]:
    """(the penalty that classifies most training examples right, the larger on a tie; which ones are right (N,))."""
    tried = [(cross_validated(gram, labels, classes, fold, penalty), penalty) for penalty in PENALTIES]
    right, penalty = max(tried, key=lambda pair: (pair[0].sum(), pair[1]))
    return penalty, right


def predicted(gram: ndarray, cross: ndarray, labels: ndarray, classes: int, fold: ndarray) -> ndarray:
    """The likeliest class of each test example (M,), with the penalty chosen on the training examples."""
    penalty, _ = chosen_penalty(gram, labels, classes, fold)
    return scores(gram, cross, labels, classes, penalty).argmax(1)
