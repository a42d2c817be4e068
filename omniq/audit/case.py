"""Case: the evidence of one audit with the rules by which it is read; what a judgement is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omniq.audit.base import BEHAVIOUR
from omniq.audit.evidence import Evidence, Primary, Sign, sign_of
from omniq.audit.result import Row, Tested

KEPT = ("retain", "world")
"""The splits that unlearning and quantisation should leave alone."""


@dataclass(frozen=True)
class Thresholds:
    """Proposals, to be calibrated on the fixtures. Margins of the metrics themselves stand with the primaries.

    kept: a drop in behaviour below this is no unlearning. collateral:
    this loss on what should stay is damage. revived: a collapsed model that regains this much utility lives again.
    same_codes: at most this share of codes may differ. cosine: from here on the change of the weights is preserved.
    whole: a projection between these is all of the change. alpha: of every family of tests. fewest: items below which
    a row decides nothing. resolution: half an interval beyond which 'no change' cannot be told from a large one.
    """

    kept: float = 0.05
    collateral: float = 0.05
    revived: float = 0.10
    same_codes: float = 1e-4
    cosine: float = 0.3
    whole: tuple[float, float] = (0.5, 1.5)
    alpha: float = 0.05
    fewest: int = 8
    resolution: float = 0.20


@dataclass(frozen=True)
class Judged:
    """One field of a verdict, and what decided it. note: in words, where no sign can say it."""

    codes: tuple[str, ...]
    signs: tuple[Sign, ...] = ()
    note: str = ""

    @property
    def code(self) -> str:
        """The only, or first, code."""
        return self.codes[0]


@dataclass(frozen=True, eq=False)
class Case:
    """rows and models of an audit, read by the primary metrics. truth: the one that tells less than ignorance."""

    rows: tuple[Row, ...]
    models: tuple[Tested, ...]
    primaries: tuple[Primary, ...]
    truth: Primary
    limits: Thresholds
    evidence: Evidence

    def named(self, role: str) -> str:
        """The name of the first model of a role, '' where there is none."""
        return next((model.name for model in self.models if model.role == role), "")

    @property
    def original(self) -> str:
        """The name of the original."""
        return self.named("orig_fp")

    @property
    def unlearned(self) -> str:
        """The name of the unlearned model, '' where there is none."""
        return self.named("unl_fp")

    def of(self, family: str) -> tuple[Primary, ...]:
        """The primary metrics of a family."""
        return tuple(primary for primary in self.primaries if primary.family == family)

    def readable(self, name: str, family: str, split: str) -> Iterator[tuple[Primary, Row]]:
        """Primary metrics of a family whose row of this model and split can be read."""
        for primary in self.of(family):
            row = self.evidence.primary(name, primary, split, self.original)
            if self.evidence.sound(row):
                yield primary, row

    def signs(self, name: str, family: str, split: str, column: str, exact: bool = False) -> tuple[Sign, ...]:
        """A delta of every readable primary metric of a family."""
        found = (sign_of(row, column, p.margin, "", exact) for p, row in self.readable(name, family, split))
        return tuple(sign for sign in found if sign is not None)

    def excesses(self, name: str, family: str) -> tuple[Sign, ...]:
        """How far above ignorance a model is on the forget set, by every primary metric of a family that can tell."""
        found = []
        for primary in self.of(family):
            found.append(self.excess(name, primary))
        return tuple(sign for sign in found if sign is not None)

    def excess(self, name: str, primary: Primary) -> Sign | None:
        """How far above ignorance a model is on the forget set by one metric, None where that cannot be told."""
        return self.evidence.excess(name, primary, "forget", self.original, self.named("never_fp") or None)

    def collapsed(self, name: str) -> str:
        """By what number a model has collapsed, '' where it has not."""
        rows = (row for row in self.rows if row.name == name and row.family == BEHAVIOUR and row.gate == "collapsed")
        row = next(rows, None)
        return (
            "" if row is None else row.note.rpartition("collapsed: ")[2] or "it no longer does what the original does"
        )
