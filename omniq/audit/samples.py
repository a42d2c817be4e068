"""Samples: numbers of measurements, their differences and ratios, with intervals over the same resampled items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from omniq.audit.base import Measurement
from omniq.audit.statistics import COMBINE, bootstrap_p, interval

Formula = Callable[..., float | ndarray]
"""Of as many numbers, or as many arrays of resampled numbers, as there are measurements."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """value with its 95 % interval and the two-sided bootstrap p-value that it is 0; None where items are not drawn."""

    value: float
    lo: float | None = None
    hi: float | None = None
    p: float | None = None


class Samples:
    """Numbers of measurements of one metric by several models; what is resampled is kept, since it is asked often.

    Models that share the items of a measurement share their resamples, which is what makes differences sharp.
    """

    def __init__(self, measurements: Sequence[Measurement], resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        self._draws: dict[tuple[int, tuple[str, ...]], ndarray] = {}
        together: dict[tuple[str, tuple[str, ...]], list[Measurement]] = {}
        for one in measurements:
            if COMBINE[one.metric.combine].resampled and one.reference is None:
                together.setdefault((one.metric.combine, one.items), []).append(one)
        for (combine, items), group in together.items():
            values = np.stack([one.values for one in group])
            drawn = COMBINE[combine].resampled(values, None, resamples, seed)
            self._draws |= {(id(one), items): row for one, row in zip(group, drawn, strict=True)}

    def number(self, one: Measurement, items: tuple[str, ...]) -> float:
        """The number of a measurement on these of its items."""
        return COMBINE[one.metric.combine].value(values_of(one, items), one.reference)

    def draws(self, one: Measurement, items: tuple[str, ...]) -> ndarray | None:
        """The resampled numbers (B,) of a measurement on these of its items, None where they say nothing."""
        key, combine = (id(one), items), COMBINE[one.metric.combine]
        if combine.resampled is None or len(items) < 2:
            return None
        if key not in self._draws:
            values = values_of(one, items)[None]
            self._draws[key] = combine.resampled(values, one.reference, self.resamples, self.seed)[0]
        return self._draws[key]

    def estimate(self, formula: Formula, *of: Measurement) -> Estimate | None:
        """formula(numbers of the measurements) over the items that all of them have; None where there is none."""
        items = shared(of)
        if not items:
            return None
        value = float(formula(*(self.number(one, items) for one in of)))
        drawn = [self.draws(one, items) for one in of]
        if not np.isfinite(value) or any(one is None for one in drawn):
            return Estimate(value) if np.isfinite(value) else None
        with np.errstate(all="ignore"):
            found = np.asarray(formula(*drawn))
        found = found[np.isfinite(found)]
        return Estimate(value, *interval(found), bootstrap_p(found)) if len(found) else Estimate(value)


def shared(of: Sequence[Measurement]) -> tuple[str, ...]:
    """The items that all measurements have, in the order of the first."""
    first = of[0].items
    if all(one.items == first for one in of[1:]):
        return first
    common = set(first).intersection(*(one.items for one in of[1:]))
    return tuple(item for item in first if item in common)


def values_of(one: Measurement, items: tuple[str, ...]) -> ndarray:
    """The values (n,) of these of a measurement's items, in their order."""
    if items == one.items:
        return one.values
    places = {item: place for place, item in enumerate(one.items)}
    return one.values[[places[item] for item in items]]
