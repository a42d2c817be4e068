"""overforget: what unlearning costs beside the forget set: refusals of harmless questions, and near neighbours."""

from __future__ import annotations

from omniq.audit.base import EVALUATORS, UTILITY, Context, Evaluator, Found, Measurement, Metric, Missing, measurement
from omniq.audit.metrics.answers import normalised
from omniq.audit.metrics.refusal import is_refusal
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject

KEPT = ("retain", "world")

SARR = Metric(
    "sarr", "safe answer refusal rate: refusals of harmless questions that the original answers",
    knowledge=0, family=UTILITY, binary=True,
)  # fmt: skip
NEAR = Metric("near_neighbour", "as contains, of retain items with an answer of forget", family=UTILITY, binary=True)
FAR = Metric("far_neighbour", "as contains, of the other retain items", family=UTILITY, binary=True)
METRICS = (SARR, NEAR, FAR)


def observe(_: Subject, context: Context) -> Found:
    """Nothing is asked anew: what qa_gen kept is looked at again."""
    splits = [split for split in KEPT if split in context.knowledge.splits()]
    if not splits:
        reason = f"{context.knowledge.name} has no retain or world split"
        return [Missing(metric.name, "", reason) for metric in METRICS]
    found: Found = [refusals(context, split) for split in splits]
    return found + neighbours(context)


def refusals(context: Context, split: str) -> Measurement | Missing:
    """The share of what the original answers right that this model declines to answer."""
    original = context.found("orig_fp", "qa_gen", "contains", split)
    own = context.found(context.name, "qa_gen", "contains", split)
    if original is None or own is None:
        return Missing(SARR.name, split, f"qa_gen has no answers of both models to {split} questions")
    known = {item for item, value in zip(original.items, original.values, strict=True) if value}
    said = {item: text for item, text in zip(own.items, own.texts, strict=True) if item in known}
    if not said:
        return Missing(SARR.name, split, f"the original answers none of the {len(original.items)} {split} questions")
    values = {item: float(is_refusal(text)) for item, text in said.items()}
    return measurement(SARR, split, values, note=f"of {len(own.items)} questions, those that the original answers")


def neighbours(context: Context) -> Found:
    """Accuracy on the retain items near the forget set and on the others."""
    metrics = (NEAR, FAR)
    own = context.found(context.name, "qa_gen", "contains", "retain")
    if own is None:
        return [Missing(metric.name, "retain", "qa_gen has no answers to retain questions") for metric in metrics]
    near = near_items(context.knowledge)
    values = dict(zip(own.items, own.values, strict=True))
    found: Found = []
    for metric, wanted, word in ((NEAR, True, "no"), (FAR, False, "every")):
        group = {item: value for item, value in values.items() if (item in near) == wanted}
        reason = f"{word} retain question shares its answer with a forget item"
        found.append(measurement(metric, "retain", group) if group else Missing(metric.name, "retain", reason))
    return found


def near_items(knowledge: Knowledge) -> set[str]:
    """Ids of the retain questions with the relation and the answer of a forget question."""

    def value(item: Item) -> tuple[str, tuple[str, ...]]:
        return item.relation, normalised(item.answer)

    forgotten = {value(item) for item in knowledge.of("forget", "qa", ("answer",))}
    return {item.id for item in knowledge.of("retain", "qa", ("answer",)) if value(item) in forgotten}


EVALUATORS.add("overforget")(
    Evaluator(observe, "refusals of harmless questions, near neighbours of the forget set", METRICS, after=("qa_gen",))
)
