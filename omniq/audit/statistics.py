"""How values of items become one number, and how sure it is: resampled items, exact tests. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import ndarray

BLOCK = 1000
"""Resamples held as floating point at once: with 4,000 items, 32 MB."""

MANY = 1 << 26
"""Counts (bytes) beyond which drawing them again costs less than keeping them."""

INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Combine:
    """value: values (n,) and a reference (m,) or None -> one number.

    resampled: values (R, n) of R measurements on the same items, reference (m,) or None, B and a seed -> the number of
    each in B resamples (R, B); None where resampling items says nothing about the number.
    """

    value: Callable[[ndarray, ndarray | None], float]
    resampled: Callable[[ndarray, ndarray | None, int, int], ndarray] | None = None


def counts(n: int, resamples: int, seed: int, stream: int = 0) -> Iterator[ndarray]:
    """How often each of n items occurs in each resample: blocks (b, n) float64 of B rows together.

    The same n, B, seed and stream give the same draws, so that models measured on the same items are compared on the
    same resamples. stream: tells groups apart that are drawn independently.
    """
    kept = n * resamples <= MANY
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        yield (_kept_block if kept else _block)(n, size, seed, stream, start).astype(np.float64)


def _block(n: int, size: int, seed: int, stream: int, start: int) -> ndarray:
    """Rows start .. start + size of the count matrix: (size, n) uint8."""
    drawn = np.random.default_rng([seed, stream, start]).integers(0, n, (size, n))
    flat = np.bincount((drawn + np.arange(size)[:, None] * n).ravel(), minlength=size * n)
    # That one of n items is drawn more than 255 times in n draws has a chance below 1e-500.
    return flat.astype(np.uint8).reshape(size, n)


_kept_block = lru_cache(maxsize=128)(_block)


def means(values: ndarray, _: ndarray | None, resamples: int, seed: int) -> ndarray:
    """values (R, n) -> their resampled means (R, B)."""
    parts = [values @ block.T for block in counts(values.shape[1], resamples, seed)]
    return np.concatenate(parts, 1) / values.shape[1]


def exponentials(values: ndarray, _: ndarray | None, resamples: int, seed: int) -> ndarray:
    """values (R, n) -> exp of their resampled means (R, B), such as perplexities from nats."""
    with np.errstate(over="ignore"):
        return np.exp(means(values, None, resamples, seed))


def harmonic(values: ndarray) -> float:
    """The harmonic mean of values (n,), 0 if any of them is 0 or less."""
    return 0.0 if (values <= 0).any() else float(len(values) / np.sum(1 / values))


def harmonics(values: ndarray, _: ndarray | None, resamples: int, seed: int) -> ndarray:
    """values (R, n) -> their resampled harmonic means (R, B)."""
    none = values <= 0
    inverse = means(1 / np.where(none, 1.0, values), None, resamples, seed)
    return np.where(means(none.astype(np.float64), None, resamples, seed) > 0, 0.0, 1 / inverse)


def ranked(values: ndarray, reference: ndarray) -> tuple[ndarray, ndarray]:
    """Places (n,) of the values and (m,) of the reference among the U different numbers of both, in rising order."""
    _, places = np.unique(np.concatenate([values, reference]), return_inverse=True)
    return places[: len(values)], places[len(values) :]


def gathered(drawn: ndarray, places: ndarray, size: int) -> ndarray:
    """Counts (b, n) of items at places (n,) below `size` -> counts at each place (b, size)."""
    order = np.argsort(places, kind="stable")
    taken, starts = np.unique(places[order], return_index=True)
    found = np.zeros((len(drawn), size))
    found[:, taken] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return found


def auc_of_counts(own: ndarray, other: ndarray) -> ndarray:
    """How many values and references are at each of U rising places, (b, U) each -> AUC (b,); ties count half."""
    below = np.cumsum(own, 1) - 0.5 * own
    return (other * below).sum(1) / (own.sum(1) * other.sum(1))


def ks_of_counts(own: ndarray, other: ndarray) -> ndarray:
    """As auc_of_counts -> the largest distance between the two distribution functions (b,)."""
    gaps = np.cumsum(own, 1) / own.sum(1, keepdims=True) - np.cumsum(other, 1) / other.sum(1, keepdims=True)
    return np.abs(gaps).max(1)


def two_groups(of_counts: Callable[[ndarray, ndarray], ndarray]) -> Combine:
    """The Combine of a number that compares two groups; both are resampled, independently of each other."""

    def value(values: ndarray, reference: ndarray | None) -> float:
        own, other = ranked(values, reference)
        size = 1 + max(own.max(), other.max())
        return float(of_counts(*(np.bincount(group, minlength=size)[None] for group in (own, other)))[0])

    def resampled(values: ndarray, reference: ndarray | None, resamples: int, seed: int) -> ndarray:
        rows = []
        for row in values:
            drawn = zip(counts(len(row), resamples, seed), counts(len(reference), resamples, seed, 1), strict=True)
            own, other = ranked(row, reference)
            size = 1 + max(own.max(), other.max())
            parts = [of_counts(gathered(mine, own, size), gathered(theirs, other, size)) for mine, theirs in drawn]
            rows.append(np.concatenate(parts))
        return np.array(rows)

    return Combine(value, resampled)


def ks_p(values: ndarray, reference: ndarray) -> float:
    """The exact two-sided p-value of the two-sample Kolmogorov-Smirnov statistic of values (n,), reference (m,).

    Under the null hypothesis every order of the n + m numbers is equally likely. Along the diagonals of the lattice of
    (values seen, references seen), `outside` is the chance that an order that leads there has been as far apart as the
    statistic somewhere before (Viehmann, arXiv:2102.08037); only positive numbers are added, so that a p of 1e-200 is
    as exact as one of 0.5.
    """
    n, m = len(values), len(reference)
    limit = round(_KS.value(values, reference) * n * m)
    if limit == 0:
        return 1.0
    outside = np.zeros(n + 1)
    for seen in range(1, n + m + 1):
        low, high = max(0, seen - m), min(n, seen)
        own = np.arange(low, high + 1)
        last = np.where(own > 0, outside[np.maximum(own - 1, 0)], 0.0)
        mixed = (own * last + (seen - own) * outside[own]) / seen
        outside[own] = np.where(np.abs(own * m - (seen - own) * n) >= limit, 1.0, mixed)
    return float(outside[n])


_KS = two_groups(ks_of_counts)

COMBINE = {
    "mean": Combine(lambda values, _: float(values.mean()), means),
    "exp": Combine(lambda values, _: float(np.exp(min(values.mean(), 700.0))), exponentials),
    "harmonic": Combine(lambda values, _: harmonic(values), harmonics),
    "auc": two_groups(auc_of_counts),
    "ks": _KS,
    "ks_p": Combine(ks_p),
    "single": Combine(lambda values, _: float(values.mean())),
}
"""mean, harmonic: of the items. exp: of their mean. auc: how likely a reference is greater than a value, ties half.

ks, ks_p: distance of the values' distribution from the reference's, and its p-value. single: one number, no interval.
"""


def interval(draws: ndarray) -> tuple[float, float]:
    """Resampled numbers (B,) -> their percentile interval of 95 %."""
    low, high = np.quantile(draws, INTERVAL)
    return float(low), float(high)


def bootstrap_p(draws: ndarray) -> float:
    """Resampled differences (B,) -> two-sided p-value that the difference is 0; never below 2 / (B + 1)."""
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(draws) + 1))


def mcnemar_p(up: int, down: int) -> float:
    """Exact two-sided p-value that as many items rise as fall, of those that changed."""
    changed = up + down
    tail = sum(math.comb(changed, k) for k in range(min(up, down) + 1))
    return min(1.0, 2 * tail / 2**changed)


def normal_tail(z: float) -> float:
    """The chance that a standard normal number exceeds z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def holm(p_values: list[float]) -> list[float]:
    """p-values -> adjusted by Holm: those at most alpha hold with a chance of at most alpha of any false alarm."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = worst
    return adjusted
