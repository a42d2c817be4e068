"""verbmem: how much of a text a model continues word for word (MUSE)."""

from __future__ import annotations

from collections.abc import Sequence

from omniq.audit.base import EVALUATORS, Context, Evaluator, Found, Metric
from omniq.audit.metrics.rouge import rouge_l
from omniq.audit.rows import by_split, rows
from omniq.knowledge.items import Item
from omniq.subject.model import Subject

TOKENS = 128

VERBMEM = Metric("verbmem", f"ROUGE-L F1 of {TOKENS} greedy tokens with the text that follows, without stemming")


def observe(subject: Subject, context: Context) -> Found:
    """The continuation of every prefix against the same number of tokens of the text itself."""

    def of_texts(split: str, items: Sequence[Item]) -> Found:
        said = subject.generate([item.prefix for item in items], TOKENS)
        texts = {item.id: text for item, text in zip(items, said, strict=True)}
        overlap = {item.id: rouge_l(texts[item.id], opening(subject, item.answer))[1] for item in items}
        return rows(VERBMEM, split, items, overlap, texts=texts)

    return by_split(context, (VERBMEM,), "completion", ("prefix", "answer"), of_texts)


def opening(subject: Subject, text: str) -> str:
    """The first TOKENS tokens of a text."""
    return subject.tokenizer.decode(subject.tokens(text)[:TOKENS], skip_special_tokens=True)


EVALUATORS.add("verbmem")(Evaluator(observe, "texts continued word for word (MUSE)", (VERBMEM,), cost="medium"))
