"""ks: forget quality: are a model's truth ratios distributed like those of a model never taught the forget set?"""

from __future__ import annotations

from omniq.audit.base import BEHAVIOUR, EVALUATORS, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.subject.model import Subject

SOURCE, RATIO, SPLIT = "qa_ll", "tr_geometric", "forget"

KS = Metric("ks", "distance of truth ratios from the never-trained model's", 0, BEHAVIOUR, "ks")
KS_P = Metric("ks_p", "forget quality: p-value of that distance", 0, BEHAVIOUR, "ks_p")
KS_CONTROL = Metric("ks_control", "distance of truth ratios from the quantised original's", 0, BEHAVIOUR, "ks")
KS_CONTROL_P = Metric("ks_control_p", "p-value of that distance", 0, BEHAVIOUR, "ks_p")

NO_NEVER = "needs a model that was never trained on the forget set; give one as --never"
NO_CONTROL = "needs the original under the same quantiser"


def compared(context: Context, other: str | None, metrics: tuple[Metric, Metric], absent: str) -> Found:
    """Statistic and p-value against another model's truth ratios, or why there are none."""
    if other is None or other not in context.measured:
        return [Missing(metric.name, SPLIT, absent) for metric in metrics]
    own, reference = (context.found(name, SOURCE, RATIO, SPLIT) for name in (context.name, other))
    if own is None or reference is None:
        name = context.name if own is None else other
        return [Missing(metric.name, SPLIT, f"{SOURCE} gave no {RATIO} for {name}") for metric in metrics]
    return [against(metric, own, reference) for metric in metrics]


def against(metric: Metric, own: Measurement, reference: Measurement) -> Measurement:
    """The ratios of a model with those of another as the reference."""
    return Measurement(metric, SPLIT, own.items, own.values, reference=reference.values, excluded=own.excluded)


def observe(_: Subject, context: Context) -> Found:
    """Against the never-trained model; of a quantised unlearned model also against the quantised original."""
    found = compared(context, "never_fp", (KS, KS_P), NO_NEVER)
    if context.role == "unl_q":
        found += compared(context, context.control, (KS_CONTROL, KS_CONTROL_P), NO_CONTROL)
    return found


EVALUATORS.add("ks")(
    Evaluator(
        observe,
        "forget quality: Kolmogorov-Smirnov test of truth ratios against the never-trained model",
        (KS, KS_P, KS_CONTROL, KS_CONTROL_P),
        # The original is measured before the never-trained model, and is no candidate for having forgotten.
        roles=("orig_q", "unl_fp", "unl_q"),
        after=("qa_ll",),
    )
)
