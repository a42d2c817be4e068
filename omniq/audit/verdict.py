"""verdicts: three judgements on every quantised model: what was unlearned, what rounding did to it, and how.

A judgement rests on the metrics of PRIMARIES alone, each chosen before anything is measured. A difference counts when
it is as large as its margin, its 95 % interval excludes zero, and it passes Holm's test among all that could decide the
same question.
"""

from __future__ import annotations

from collections.abc import Sequence

from omniq.audit.base import BEHAVIOUR, LATENT, MEMBERSHIP
from omniq.audit.case import Case, Judged, Thresholds
from omniq.audit.effect import damage, effect
from omniq.audit.evidence import Evidence, Primary, driver
from omniq.audit.result import Absent, Row, Tested, Verdict
from omniq.audit.sentences import readings, sentence
from omniq.audit.state import state

TWICE = 0.69
"""Nats: twice as likely."""

PRIMARIES = (
    Primary("qa_gen", "contains", BEHAVIOUR, 0.05),
    Primary("qa_ll", "prob", BEHAVIOUR, 0.05),
    Primary("qa_ll", "es", BEHAVIOUR, 0.05),
    Primary("verbmem", "verbmem", BEHAVIOUR, 0.10),
    Primary("knowmem", "knowmem", BEHAVIOUR, 0.05),
    Primary("mcq", "acc", LATENT, 0.10),
    Primary("mcq", "acc_letter", LATENT, 0.10),
    Primary("qa_ll", "mc_acc", LATENT, 0.10),
    Primary("paraphrase", "consistent_accuracy", LATENT, 0.10),
    Primary("probe", "probe_r2f", LATENT, 0.10, floors=("probe_holdout", "probe_control")),
    Primary("probe", "probe_f2f", LATENT, 0.10, floors=("probe_holdout", "probe_control")),
    Primary("lens", "lens_best", LATENT, TWICE, above=TWICE),
    Primary("patch", "uds", LATENT, 0.10),
    Primary("relearn", "relearn_v", LATENT, 0.10),
    Primary("privacy", "mia_mink40", MEMBERSHIP, 0.10),
)
"""Left out on purpose: icl, where exact unlearning fails too; ROUGE and the truth ratio, which a flat model moves."""

TRUTH = Primary("qa_ll", "tr_prob_mean", BEHAVIOUR, 0.10)
"""Only for the question whether the model knows less than one that was never taught."""

FLIPS, PROJECTION, COSINE = "code_flips", "projection", "cosine"
UNSURE = ("CONSISTENT_WITH_REMOVAL", "OVER_UNLEARNED", "INCONCLUSIVE")
"""States that a further evaluator could change, so that a reader should know which gave nothing."""


def verdicts(
    rows: Sequence[Row], absent: Sequence[Absent], models: Sequence[Tested], thresholds: Thresholds | None = None
) -> tuple[Verdict, ...]:
    """One verdict for each quantised model; without an unlearned model, for each quantised original.

    An unlearned model that was not quantised gets one too, whose effect is NOT_ASSESSED. absent: what is N/A and why.
    """
    limits = thresholds or Thresholds()
    case = Case(tuple(rows), tuple(models), PRIMARIES, TRUTH, limits, Evidence(rows, limits.fewest))
    if not case.unlearned:
        return tuple(
            worded(case, absent, model, Judged(("NOT_ASSESSED",)), damage(case, model.name), Judged(("UNKNOWN",)))
            for model in models
            if model.role == "orig_q"
        )
    before = state(case)
    quantised = [model for model in models if model.role == "unl_q"]
    if not quantised:
        only = next(model for model in models if model.role == "unl_fp")
        return (worded(case, absent, only, before, Judged(("NOT_ASSESSED",)), Judged(("UNKNOWN",))),)
    return tuple(
        worded(case, absent, model, before, effect(case, model.name, before.code), mechanism(case, model.name))
        for model in quantised
    )


def worded(case: Case, absent: Sequence[Absent], model: Tested, before: Judged, after: Judged, how: Judged) -> Verdict:
    """The three fields with their words. before, after, how: state, effect and mechanism."""
    drivers = (*(sign.driver for sign in (*before.signs, *after.signs)), *filter(None, [how.note]))
    gaps = untried(case, absent) if before.code in UNSURE else ()
    return Verdict(
        model.name,
        before.code,
        after.codes,
        how.code,
        sentence(model, before, after, how, gaps),
        readings(before, after),
        tuple(dict.fromkeys(drivers)),
    )


def mechanism(case: Case, name: str) -> Judged:
    """What became of the weights that unlearning changed."""
    found = {
        row.metric: row for row in case.rows if row.name == name and row.evaluator == "weights" and row.layer is None
    }
    flips, projection, cosine = (found.get(metric) for metric in (FLIPS, PROJECTION, COSINE))
    if flips is not None and flips.value <= case.limits.same_codes:
        return Judged(("SAME_CODES",), note=driver(flips))
    if cosine is not None and cosine.value >= case.limits.cosine:
        return Judged(("PRESERVED",), note=driver(cosine))
    low, high = case.limits.whole
    if cosine is not None and projection is not None and low <= projection.value <= high:
        return Judged(("BURIED",), note=driver(cosine))
    return Judged(("UNKNOWN",))


def untried(case: Case, absent: Sequence[Absent]) -> tuple[str, ...]:
    """Evaluators of latent knowledge that could not tell anything about the unlearned model, and why."""
    names = dict.fromkeys(primary.evaluator for primary in case.of(LATENT))
    told = {sign.row.evaluator for sign in case.excesses(case.unlearned, LATENT)}
    ran = {row.evaluator for row in case.rows if row.name == case.unlearned}
    reasons = {one.evaluator: one.reason for one in absent if one.name == case.unlearned}
    why = {name: reasons.get(name, "cannot be read" if name in ran else "not run") for name in names}
    return tuple(f"{name} ({why[name]})" for name in names if name not in told)
