"""icl: is knowledge used again when it stands in the prompt (reintroduction in context)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omniq.audit.asking import stops
from omniq.audit.base import EVALUATORS, LATENT, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.metrics.answers import contains
from omniq.audit.rows import by_split, rows
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject

CAPABLE = 0.5
"""Of the questions about what was never taught, so many must be answered from the prompt alone."""

ALONE = "alone it is no evidence: a model that never knew can read it in the prompt; compare forget with holdout"

ICL = Metric(
    "icl_contains", "written answer is right when a text about the subject stands before the question",
    knowledge=0, family=LATENT, binary=True,
)  # fmt: skip


def observe(subject: Subject, context: Context) -> Found:
    """Every split, gated by what the model reads out of the prompt about subjects that it was never taught."""

    def of_questions(split: str, items: Sequence[Item]) -> Found:
        found = {item.id: background(context.knowledge, item) for item in items}
        told = [item for item in items if found[item.id]]
        if not told:
            reason = "has no document about the subject of a question, and no other question about it"
            return [Missing(ICL.name, split, f"{context.knowledge.name} {split} {reason}")]
        limit = context.settings.text_tokens
        prompts = [reintroduced(subject, cut(subject, found[item.id], limit), item.question) for item in told]
        said = subject.generate(prompts, context.settings.answer_tokens, stops(subject))
        texts = {item.id: text for item, text in zip(told, said, strict=True)}
        right = {item.id: contains(texts[item.id], item.answer) for item in told}
        return rows(ICL, split, told, right, texts=texts, note=ALONE)

    return gated(by_split(context, (ICL,), "qa", ("question", "answer"), of_questions))


def background(knowledge: Knowledge, item: Item) -> str:
    """The subject's document, or the other questions about it with their answers; '' where there is neither."""
    if not item.subject:
        return ""
    about = [other for other in knowledge.of(item.split) if other.subject == item.subject]
    documents = [other.text for other in about if other.form == "document" and other.text]
    if documents:
        return next((text for text in documents if contains(text, item.answer)), documents[0])
    others = [other for other in about if other.form == "qa" and other.question != item.question]
    return "\n".join(f"{other.question} {other.answer}" for other in others)


def cut(subject: Subject, text: str, limit: int) -> str:
    """The first `limit` tokens of a text."""
    ids = subject.tokens(text)
    return text if len(ids) <= limit else subject.tokenizer.decode(ids[:limit], skip_special_tokens=True)


def reintroduced(subject: Subject, text: str, question: str) -> str:
    """The text before the question: inside the user's message, or before the whole of a plain prompt."""
    if subject.template.name == "plain":
        return f"{text}\n\n{subject.template.prompt(question)}"
    return subject.template.prompt(f"{text}\n\n{question}")


def gated(found: Found) -> Found:
    """The measurements, marked no_capability unless the holdout split shows that the model reads its prompt."""
    whole = (row for row in found if isinstance(row, Measurement) and row.split == "holdout" and not row.attribute)
    holdout = next(whole, None)
    if holdout is not None and holdout.values.mean() >= CAPABLE:
        return found
    said = "has no holdout split" if holdout is None else f"on holdout gives only {holdout.values.mean():.2f}"
    note = f"the audit {said}, so that it is not shown that the model reads its prompt ({CAPABLE} is needed)"
    return [replace(row, gate="no_capability", note=note) if isinstance(row, Measurement) else row for row in found]


EVALUATORS.add("icl")(Evaluator(observe, "questions put after a text about their subject", (ICL,), cost="medium"))
