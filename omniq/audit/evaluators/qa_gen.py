"""qa_gen: what a model writes when it is asked, greedily, and whether that is right, or an answer at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omniq.audit.asking import stops
from omniq.audit.base import EVALUATORS, UTILITY, Context, Evaluator, Found, Metric
from omniq.audit.metrics.answers import begins_with, contains, exact_match
from omniq.audit.metrics.fluency import fluency
from omniq.audit.metrics.refusal import is_refusal
from omniq.audit.metrics.rouge import rouge_l
from omniq.audit.rows import by_split, rows
from omniq.knowledge.items import Item
from omniq.subject.model import Subject

CLOZE_TOKENS = 16
"""Written after a cloze, whose answer comes first or not at all."""

EM = Metric("em", "written answer equal to the right one but for case, punctuation and articles", binary=True)
CONTAINS = Metric("contains", "written answer contains the right one", binary=True)
RECALL = Metric("rouge_recall", "ROUGE-L recall of the written answer, without stemming")
F1 = Metric("rouge_f1", "ROUGE-L F1 of the written answer, without stemming")
REFUSAL = Metric("refusal", "written answer declines to answer", knowledge=0, family=UTILITY, binary=True)
FLUENCY = Metric("fluency", "entropy of the written word pairs and triples, bits", knowledge=0, family=UTILITY)
ASKED = (EM, CONTAINS, RECALL, F1, REFUSAL, FLUENCY)

EM_CLOZE = Metric("em_cloze", "continuation of a cloze begins with the answer", binary=True)
CONTAINS_CLOZE = Metric("contains_cloze", "continuation of a cloze contains the answer", binary=True)
EM_REVERSE = Metric("em_reverse", "as em, asked from the attribute to the subject", binary=True)
CONTAINS_REVERSE = Metric("contains_reverse", "as contains, asked from the attribute to the subject", binary=True)
CLOZE, REVERSE = (EM_CLOZE, CONTAINS_CLOZE), (EM_REVERSE, CONTAINS_REVERSE)


def observe(subject: Subject, context: Context) -> Found:
    """Every form of question on every split; what was written is kept beside contains."""
    limit = context.settings.answer_tokens

    def of_questions(split: str, items: Sequence[Item]) -> Found:
        texts = written(subject, items, limit)
        found = matches(split, items, texts, EM, CONTAINS)
        overlap = {item.id: rouge_l(texts[item.id], item.answer) for item in items}
        found += rows(RECALL, split, items, {key: recall for key, (recall, _) in overlap.items()})
        found += rows(F1, split, items, {key: f1 for key, (_, f1) in overlap.items()})
        found += rows(REFUSAL, split, items, {key: is_refusal(text) for key, text in texts.items()})
        return found + rows(FLUENCY, split, items, {key: fluency(text) for key, text in texts.items()})

    def of_clozes(split: str, items: Sequence[Item]) -> Found:
        prompts = [item.prefix.rstrip() for item in items]
        said = subject.generate(prompts, min(limit, CLOZE_TOKENS), ("\n",))
        texts = {item.id: text for item, text in zip(items, said, strict=True)}
        found = rows(EM_CLOZE, split, items, {item.id: begins_with(texts[item.id], item.answer) for item in items})
        right = {item.id: contains(texts[item.id], item.answer) for item in items}
        return found + rows(CONTAINS_CLOZE, split, items, right, texts=texts)

    def of_reverse(split: str, items: Sequence[Item]) -> Found:
        return matches(split, items, written(subject, items, limit), EM_REVERSE, CONTAINS_REVERSE)

    question = ("question", "answer")
    found = by_split(context, ASKED, "qa", question, of_questions)
    found += by_split(context, CLOZE, "cloze", ("prefix", "answer"), of_clozes)
    return found + by_split(context, REVERSE, "reverse", question, of_reverse)


def written(subject: Subject, items: Sequence[Item], limit: int) -> dict[str, str]:
    """Item id -> what the model writes when it is asked the item's question, at most `limit` tokens."""
    texts = subject.generate([subject.template.prompt(item.question) for item in items], limit, stops(subject))
    return {item.id: text for item, text in zip(items, texts, strict=True)}


def matches(split: str, items: Sequence[Item], texts: Mapping[str, str], equal: Metric, within: Metric) -> Found:
    """Rows of the metrics `equal` and `within`: whether each text is the answer, and whether it contains it."""
    found = rows(equal, split, items, {item.id: exact_match(texts[item.id], item.answer) for item in items})
    right = {item.id: contains(texts[item.id], item.answer) for item in items}
    return found + rows(within, split, items, right, texts=texts)


EVALUATORS.add("qa_gen")(
    Evaluator(observe, "written answers to questions and clozes", ASKED + CLOZE + REVERSE, cost="medium")
)
