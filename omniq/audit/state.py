"""state: what the unlearned model still shows of the forget set, before it is quantised."""

from __future__ import annotations

from omniq.audit.base import BEHAVIOUR, LATENT, MEMBERSHIP
from omniq.audit.case import Case, Judged
from omniq.audit.evidence import Sign, sign_of, significant


def state(case: Case) -> Judged:
    """What the unlearned model shows of the forget set, before it is quantised."""
    why = case.collapsed(case.unlearned)
    if why:
        return Judged(("COLLAPSED",), note=why)
    change = case.signs(case.unlearned, BEHAVIOUR, "forget", "delta_vs_orig_fp")
    if not change and not case.excesses(case.unlearned, LATENT):
        return Judged(("INCONCLUSIVE",), note="no primary metric shows that the original knows the forget set")
    drops = [sign.negated() for sign in change]
    fallen = [sign for sign in drops if sign.size >= case.limits.kept and sign.lo > 0]
    if change and not fallen:
        kept = tuple(sign for sign in change if -sign.size < case.limits.kept and -sign.lo < case.limits.resolution)
        reason = "" if kept else "the items are too few to see whether anything was unlearned"
        return Judged(("NOT_UNLEARNED",) if kept else ("INCONCLUSIVE",), kept, reason)
    known = remaining(case)
    if known:
        return Judged(("SUPPRESSED",), known)
    below = significant([sign.negated() for sign in familiarity(case)], case.limits.alpha)
    if below:
        return Judged(("OVER_UNLEARNED",), tuple(sign.negated() for sign in below))
    sharp = excluded(case)
    reason = "" if sharp else "nothing measured could have told suppressed knowledge from none"
    return Judged(("CONSISTENT_WITH_REMOVAL",) if sharp else ("INCONCLUSIVE",), sharp, reason)


def remaining(case: Case) -> tuple[Sign, ...]:
    """Signs that the unlearned model still knows the forget set.

    Any one of them decides, whatever its family, so that Holm's test is over all: each family by itself would raise
    the chance of finding something in a model that was never taught.
    """
    families = (BEHAVIOUR, LATENT, MEMBERSHIP)
    signs = [sign for family in families for sign in case.excesses(case.unlearned, family)]
    return significant(signs, case.limits.alpha)


def familiarity(case: Case) -> tuple[Sign, ...]:
    """How much more familiar the forget set is than to a model that was never taught it."""
    found = list(case.excesses(case.unlearned, MEMBERSHIP))
    row = case.evidence.primary(case.unlearned, case.truth, "forget", case.original)
    truth = sign_of(row, "delta_vs_never", case.truth.margin, "the never-trained model") if row is not None else None
    return tuple(found if truth is None else [*found, truth])


def excluded(case: Case) -> tuple[Sign, ...]:
    """Latent signs sharp enough to have seen half of what the original has above ignorance, and that did not."""
    whole = {sign.driver: sign for sign in case.excesses(case.original, LATENT)}
    return tuple(
        sign
        for sign in case.excesses(case.unlearned, LATENT)
        if sign.driver in whole and sign.hi < whole[sign.driver].size / 2 and whole[sign.driver].lo > 0
    )
