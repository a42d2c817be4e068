"""Evidence: what rows say about one model, as differences with a size, an interval and a chance of being luck."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omniq.audit.base import MEMBERSHIP
from omniq.audit.result import Row
from omniq.audit.statistics import holm, normal_tail

Z95 = 1.959964
"""Half the width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Primary:
    """A metric chosen beforehand to speak for its evaluator, so that the many others cannot find something by luck.

    margin: the change by quantisation that counts, above: how far above ignorance is knowledge, both in the metric's
    unit. floors: other metrics of the same evaluator, model and layer that show what it scores without knowledge.
    """

    evaluator: str
    metric: str
    family: str
    margin: float
    above: float = 0.10
    floors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sign:
    """A difference in the direction of more knowledge: size, its 95 % interval, one-sided p-value that it is luck.

    row: whose it is. against: what it was compared with, in words. loss: turned round, in the direction of less.
    """

    row: Row
    size: float
    lo: float
    hi: float
    p: float
    margin: float
    against: str = ""
    loss: bool = False

    @property
    def driver(self) -> str:
        """'qa_gen.contains@forget', with the layer where there is one."""
        return driver(self.row)

    def negated(self) -> Sign:
        """The same in the other direction."""
        return Sign(self.row, -self.size, -self.hi, -self.lo, 1 - self.p, self.margin, self.against, not self.loss)


def driver(row: Row) -> str:
    """'qa_gen.contains@forget', or 'probe.probe_r2f@forget, layer 12'."""
    place = f"{row.evaluator}.{row.metric}" + (f"@{row.split}" if row.split else "")
    return place if row.layer is None else f"{place}, layer {row.layer}"


def sign_of(row: Row, column: str, margin: float, against: str, exact: bool = False) -> Sign | None:
    """A delta column of a row, or did, as a Sign; None where the row lacks it or its interval.

    exact: the row's own p-value is about this column.
    """
    size, lo, hi = (getattr(row, column + suffix) for suffix in ("", "_lo", "_hi"))
    if size is None or lo is None or hi is None or row.direction == 0:
        return None
    if row.direction < 0:
        size, lo, hi = -size, -hi, -lo
    p = tail(size, lo, hi)
    if exact and row.p_value is not None:
        p = row.p_value / 2 if size > 0 else 1 - row.p_value / 2
    return Sign(row, size, lo, hi, p, margin, against)


def tail(size: float, lo: float, hi: float) -> float:
    """One-sided p-value of a difference from its 95 % interval, as if it were normal."""
    error = (hi - lo) / (2 * Z95)
    if error == 0:
        return 0.0 if size > 0 else 1.0
    return normal_tail(size / error)


def significant(signs: Iterable[Sign], alpha: float) -> tuple[Sign, ...]:
    """Signs at least as large as their margin, with an interval above 0, that also pass Holm's test together."""
    signs = tuple(signs)
    adjusted = holm([sign.p for sign in signs])
    return tuple(
        sign
        for sign, p in zip(signs, adjusted, strict=True)
        if sign.size >= sign.margin and sign.lo > 0 and p <= alpha / 2
    )


class Evidence:
    """The rows of an audit over all attributes, by model, evaluator, metric and split; only those with enough items."""

    def __init__(self, rows: Sequence[Row], fewest: int) -> None:
        self.fewest = fewest
        self._rows: dict[tuple[str, str, str, str, int | None], Row] = {}
        self._layers: dict[tuple[str, str, str, str], list[int | None]] = {}
        for row in rows:
            if not row.attribute:
                place = (row.name, row.evaluator, row.metric, row.split)
                self._rows[(*place, row.layer)] = row
                self._layers.setdefault(place, []).append(row.layer)

    def row(self, name: str, evaluator: str, metric: str, split: str, layer: int | None = None) -> Row | None:
        """One row, or None."""
        return self._rows.get((name, evaluator, metric, split, layer))

    def primary(self, name: str, primary: Primary, split: str, original: str) -> Row | None:
        """The row of a primary metric; of one that has only layers, that of the layer where the original knows most."""
        layers = self._layers.get((name, primary.evaluator, primary.metric, split), [])
        if not layers or None in layers:
            return self.row(name, primary.evaluator, primary.metric, split)
        whole = {layer: self.row(original, primary.evaluator, primary.metric, split, layer) for layer in layers}
        known = {layer: row.direction * row.value for layer, row in whole.items() if row is not None}
        best = max(known, key=lambda layer: known[layer]) if known else None
        return self.row(name, primary.evaluator, primary.metric, split, best)

    def sound(self, row: Row | None) -> bool:
        """Whether a row is there, over enough items, and nothing stands in the way of reading it."""
        return row is not None and row.n >= self.fewest and row.gate == "ok"

    def excess(self, name: str, primary: Primary, split: str, original: str, never: str | None) -> Sign | None:
        """How far a model is above ignorance on a primary metric; of several measures of ignorance, the strictest.

        Ignorance: the never-trained model on the same items, else the same model on people it was never taught; chance;
        and the floors that the metric names. That a text is more familiar than to the never-trained model is a trace
        even where it is less so than chance, so chance then counts for membership only where nothing else does.
        """
        row = self.primary(name, primary, split, original)
        if not self.sound(row):
            return None
        never_taught = (
            sign_of(row, "delta_vs_never", primary.above, "the never-trained model") if name != never else None
        )
        if never_taught is None:
            holdout = self.row(name, primary.evaluator, primary.metric, "holdout", row.layer)
            never_taught = unpaired(row, holdout, primary.above, "what it was never taught")
        found = [never_taught]
        if never_taught is None or primary.family != MEMBERSHIP:
            found.append(above_chance(row, primary.above))
        for metric in primary.floors:
            for layer in dict.fromkeys((row.layer, None)):
                for where in (split, "holdout"):
                    other = self.row(name, primary.evaluator, metric, where, layer)
                    found.append(unpaired(row, other, primary.above, f"{metric}@{where}"))
        kept = [sign for sign in found if sign is not None]
        return min(kept, key=lambda sign: sign.lo) if kept else None


def unpaired(row: Row, other: Row | None, margin: float, against: str) -> Sign | None:
    """The difference of two rows on other items, from both intervals."""
    if other is None or None in (row.ci_lo, row.ci_hi, other.ci_lo, other.ci_hi) or row.direction == 0:
        return None
    size = row.direction * (row.value - other.value)
    half = math.hypot(row.ci_hi - row.ci_lo, other.ci_hi - other.ci_lo) / 2
    return Sign(row, size, size - half, size + half, tail(size, size - half, size + half), margin, against)


def above_chance(row: Row, margin: float) -> Sign | None:
    """A row's distance from chance."""
    if row.chance is None or row.ci_lo is None or row.ci_hi is None or row.direction == 0:
        return None
    ends = sorted(row.direction * (end - row.chance) for end in (row.ci_lo, row.ci_hi))
    size = row.direction * (row.value - row.chance)
    return Sign(row, size, *ends, tail(size, *ends), margin, "chance")
