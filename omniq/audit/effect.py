"""effect: what quantisation did to what a model knows, beyond what the same quantiser does to the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omniq.audit.base import BEHAVIOUR, LATENT
from omniq.audit.case import KEPT, Case, Judged
from omniq.audit.evidence import Sign, sign_of, significant

ALL_KEPT = (*KEPT, "forget")
"""What an original should keep; its forget set is knowledge like any other."""


def damage(case: Case, name: str) -> Judged:
    """What a quantised original lost."""
    harm = lost(case, name, "delta_vs_orig_fp", ALL_KEPT)
    return Judged(("COLLATERAL",), harm) if harm else unmoved(case, name, "delta_vs_orig_fp", ALL_KEPT)


def effect(case: Case, name: str, state: str) -> Judged:
    """What quantisation did to the unlearned model."""
    alpha = case.limits.alpha
    if state == "COLLAPSED":
        return revival(case, name)
    harm = lost(case, name, "did", KEPT)
    if case.collapsed(name):
        note = f"the quantised model has collapsed: {case.collapsed(name)}"
        return Judged(("COLLATERAL",), harm) if harm else Judged(("INCONCLUSIVE",), note=note)
    found: list[tuple[str, tuple[Sign, ...]]] = []
    shown, latent = (significant(risen(case, name, family), alpha) for family in (BEHAVIOUR, LATENT))
    if shown:
        found.append(("RECOVERED", shown))
    elif latent:
        found.append(("RECOVERED_LATENT", latent))
    deeper = [] if shown else significant(sunk(case, name), alpha)
    found += [("DEEPENED", tuple(deeper))] if deeper else []
    found += [("COLLATERAL", harm)] if harm else []
    if not found:
        return unmoved(case, name, "delta_vs_unl_fp", ("forget",))
    return Judged(tuple(code for code, _ in found), tuple(sign for _, signs in found for sign in signs))


def risen(case: Case, name: str, family: str) -> tuple[Sign, ...]:
    """Changes on the forget set. One that brings back no knowledge keeps its place among the tests, as luck.

    A rise brings none back where the same quantiser raises the original as much, or where it ends at ignorance: a model
    that refused and now guesses has learnt nothing.
    """
    found = []
    for primary, row in case.readable(name, family, "forget"):
        sign = sign_of(row, "delta_vs_unl_fp", primary.margin, "", exact=True)
        beyond = sign_of(row, "did", primary.margin, "")
        known = case.excess(name, primary)
        explained = beyond is not None and beyond.lo <= 0
        guessing = known is not None and (known.size < primary.margin or known.lo <= 0)
        if sign is not None:
            found.append(replace(sign, p=1.0) if explained or guessing else sign)
    return tuple(found)


def sunk(case: Case, name: str) -> tuple[Sign, ...]:
    """Falls on the forget set, as positive signs, beyond those of the original under the same quantiser."""
    found = []
    for sign in case.signs(name, BEHAVIOUR, "forget", "delta_vs_unl_fp"):
        beyond = sign_of(sign.row, "did", sign.margin, "the unlearned model and the control")
        if beyond is not None and sign.hi < 0:
            found.append(beyond.negated())
    return tuple(found)


def lost(case: Case, name: str, column: str, splits: Sequence[str]) -> tuple[Sign, ...]:
    """Significant losses of behaviour on these splits, as positive signs; also of a model that has collapsed."""
    found = []
    for split in splits:
        for primary in case.of(BEHAVIOUR):
            row = case.evidence.primary(name, primary, split, case.original)
            if row is not None and row.n >= case.limits.fewest and row.gate in ("ok", "collapsed"):
                sign = sign_of(row, column, case.limits.collateral, "")
                found += [] if sign is None else [sign.negated()]
    return significant(found, case.limits.alpha)


def unmoved(case: Case, name: str, column: str, splits: Sequence[str]) -> Judged:
    """STABLE where a primary metric is sharp enough to have seen a change, INCONCLUSIVE where none is."""
    signs = [sign for split in splits for sign in case.signs(name, BEHAVIOUR, split, column)]
    sharp = tuple(sign for sign in signs if (sign.hi - sign.lo) / 2 <= case.limits.resolution)
    if sharp:
        return Judged(("STABLE",), sharp)
    reason = "the items are too few to see a change" if signs else "no primary metric could be read"
    return Judged(("INCONCLUSIVE",), note=reason)


def revival(case: Case, name: str) -> Judged:
    """Whether quantisation gives a collapsed model its utility and its knowledge back."""
    utility = []
    for split in KEPT:
        for primary in case.of(BEHAVIOUR):
            row = case.evidence.primary(name, primary, split, case.original)
            sign = sign_of(row, "delta_vs_unl_fp", case.limits.revived, "") if row is not None else None
            utility += [] if sign is None or row.n < case.limits.fewest else [sign]
    alive = significant(utility, case.limits.alpha)
    shown = significant(case.signs(name, BEHAVIOUR, "forget", "delta_vs_unl_fp", exact=True), case.limits.alpha)
    if alive and shown:
        return Judged(("REVIVED",), (*shown, *alive))
    return Judged(("INCONCLUSIVE",), note="a collapsed model has nothing to compare with")
