"""privacy: whether the texts of a split look more like training data than texts that were never trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from omniq.audit.base import EVALUATORS, MEMBERSHIP, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.metrics.membership import SCORES, privleak
from omniq.audit.models import NEVER
from omniq.audit.statistics import COMBINE
from omniq.knowledge.items import Knowledge
from omniq.subject.model import Subject

FEWEST_WORDS = 4
"""A text of fewer words has too few tokens to tell anything by."""

MEMBERS, OUTSIDERS = ("forget", "retain"), "holdout"
NAMES = {
    "mia_loss": "the loss",
    "mia_zlib": "the loss over what zlib needs",
    "mia_mink20": "Min-K% of 20 %",
    "mia_mink40": "Min-K% of 40 %",
    "mia_minkpp": "Min-K%++ of 20 %",
}
AUCS = {
    name: Metric(
        name, f"AUC by {words}: how likely a holdout text looks less like training data than one of the split",
        family=MEMBERSHIP, combine="auc", chance=0.5,
    )
    for name, words in NAMES.items()
}  # fmt: skip
PRIVLEAK = Metric(
    "privleak", "MUSE's PrivLeak: -100 as a member, 0 as the reference, above over-unlearned; see mia_mink40",
    knowledge=-1, family=MEMBERSHIP, combine="single", chance=0.0,
)  # fmt: skip
BASIS = "mia_mink40"
"""The score that PrivLeak is made of, as in MUSE."""

METRICS = (*AUCS.values(), PRIVLEAK)

Scores = dict[str, dict[str, float]]
"""Name of a metric -> item id -> score, higher the less a text looks like training data."""


def observe(subject: Subject, context: Context) -> Found:
    """AUC of every score of forget and of retain against holdout, and PrivLeak of forget."""
    texts, form = texts_by_split(context.knowledge)
    outsiders = texts.get(OUTSIDERS, {})
    members = {split: texts[split] for split in MEMBERS if texts.get(split)}
    if not outsiders or not members:
        need = OUTSIDERS if members else " or ".join(MEMBERS)
        reason = f"{context.knowledge.name} has no {need} texts of {FEWEST_WORDS} words to compare with"
        return [Missing(metric.name, "", reason) for metric in METRICS]
    limit = context.settings.text_tokens
    reference = scores(subject, outsiders, limit)
    found: Found = []
    for split, own in members.items():
        values = scores(subject, own, limit)
        note = f"of {form}, the first {limit} tokens"
        found += [compared(AUCS[name], split, values[name], reference[name], note) for name in AUCS]
    forget = next((one for one in found if one.split == "forget" and name_of(one) == BASIS), None)
    return [*found, leak(forget, context, texts)]


def name_of(one: Measurement | Missing) -> str:
    """The metric's name."""
    return one.metric.name if isinstance(one, Measurement) else one.metric


def texts_by_split(knowledge: Knowledge) -> tuple[dict[str, dict[str, str]], str]:
    """(split -> item id -> text, what the texts are): documents, or questions and answers if some split has none."""
    splits = [split for split in (*MEMBERS, OUTSIDERS) if split in knowledge.splits()]
    documents = {split: {i.id: i.text for i in knowledge.of(split, "document", ("text",))} for split in splits}
    form = "documents"
    if not all(documents.values()):
        fields, form = ("question", "answer"), "questions with answers"
        documents = {
            split: {i.id: f"{i.question} {i.answer}" for i in knowledge.of(split, "qa", fields)} for split in splits
        }
    long = {
        split: {item: text for item, text in own.items() if len(text.split()) >= FEWEST_WORDS}
        for split, own in documents.items()
    }
    return long, form


def scores(subject: Subject, texts: Mapping[str, str], limit: int) -> Scores:
    """Every score of every text, of its first `limit` tokens."""
    scored = subject.score([("", text) for text in texts.values()], moments=True, limit=limit)
    pairs = list(zip(texts.items(), scored, strict=True))
    return {name: {item: of(text, one) for (item, text), one in pairs} for name, of in SCORES.items()}


def compared(
    metric: Metric, split: str, own: Mapping[str, float], other: Mapping[str, float], note: str
) -> Measurement | Missing:
    """values: scores of the split; reference: of holdout. Their AUC is 1 where every holdout score is higher."""
    values, reference = np.array([*own.values()]), np.array([*other.values()])
    kept, known = np.isfinite(values), np.isfinite(reference)
    if not kept.any() or not known.any():
        return Missing(metric.name, split, "no text gave a finite score")
    items = tuple(item for item, fine in zip(own, kept, strict=True) if fine)
    excluded = int((~kept).sum())
    return Measurement(
        metric, split, items, values[kept], reference=reference[known], excluded=excluded, chance=0.5, note=note
    )


def auc(one: Measurement) -> float:
    """How likely a reference score is above one of the split's, ties half."""
    return COMBINE["auc"].value(one.values, one.reference)


def leak(
    forget: Measurement | Missing | None, context: Context, texts: Mapping[str, Mapping[str, str]]
) -> Measurement | Missing:
    """PrivLeak of the forget split, against the never-trained model's AUC, or against 0.5 where there is none."""
    if not isinstance(forget, Measurement):
        return Missing(PRIVLEAK.name, "forget", f"{context.knowledge.name} has no forget texts to compare with holdout")

    def never_auc() -> float | None:
        one = context.found(NEVER, "privacy", BASIS, "forget")
        if one is None and context.name == NEVER:
            one = forget
        if one is None:
            never, limit = context.load(NEVER), context.settings.text_tokens
            own, other = (scores(never, texts[split], limit)[BASIS] for split in ("forget", OUTSIDERS))
            one = compared(AUCS[BASIS], "forget", own, other, "")
        return auc(one) if isinstance(one, Measurement) else None

    known = NEVER in context.folders
    reference = context.kept("privacy/never", never_auc) if known else 0.5
    whose = "the never-trained model" if known else "no never-trained model, so of chance"
    if reference is None:
        return Missing(PRIVLEAK.name, "forget", "the never-trained model gave no finite score to compare with")
    value = privleak(auc(forget), reference)
    if value is None:
        reason = f"the reference AUC is {reference:.3f}, and PrivLeak divides by 1 less that; read mia_mink40 instead"
        return Missing(PRIVLEAK.name, "forget", reason)
    note = f"AUC {auc(forget):.3f}, reference {reference:.3f} of {whose}"
    single: ndarray = np.array([value])
    return Measurement(PRIVLEAK, "forget", ("all texts",), single, chance=PRIVLEAK.chance, note=note)


EVALUATORS.add("privacy")(
    Evaluator(observe, "membership inference: loss, zlib, Min-K%, Min-K%++ and PrivLeak", METRICS)
)
