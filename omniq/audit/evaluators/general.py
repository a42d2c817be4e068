"""general: perplexity of running text, beside that of the same text with its words shuffled and reversed."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from omniq.audit.base import EVALUATORS, UTILITY, Context, Evaluator, Found, Metric, Missing, measurement
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject

FEWEST_WORDS = 4
"""A text of fewer words has too few orders for the shuffled one to be a control."""

KEPT = ("retain", "world")
"""Splits whose questions and answers stand in for documents: what they hold must stay readable to the model."""

PPL = Metric("ppl", "perplexity of the text", knowledge=0, family=UTILITY, combine="exp")
SHUFFLED = Metric(
    "ppl_shuffled", "perplexity of the text with its words shuffled", knowledge=0, family=UTILITY, combine="exp"
)
REVERSED = Metric(
    "ppl_reversed", "perplexity of the text with its words reversed", knowledge=0, family=UTILITY, combine="exp"
)
METRICS = (PPL, SHUFFLED, REVERSED)


def observe(subject: Subject, context: Context) -> Found:
    """Every metric on every split: the mean negative log-likelihood of each text, in nats a token."""
    found: Found = []
    for split in context.knowledge.splits():
        texts = texts_of(context.knowledge, split)
        long = {item: text for item, text in texts.items() if len(text.split()) >= FEWEST_WORDS}
        if not long:
            lacking = f"text of {FEWEST_WORDS} words or more" if texts else "documents"
            reason = f"{context.knowledge.name} {split} has no {lacking}"
            found += [Missing(metric.name, split, reason) for metric in METRICS]
            continue
        short = len(texts) - len(long)
        note = f"{short} of fewer than {FEWEST_WORDS} words left out" if short else ""
        for metric, changed in variants(long, context.settings.seed).items():
            values = losses(subject, changed, context.settings.text_tokens)
            found.append(measurement(metric, split, values, excluded=short, note=note))
    return found


def texts_of(knowledge: Knowledge, split: str) -> dict[str, str]:
    """Item id -> text: the documents of a split, or the questions with their answers where it has none and is kept."""
    documents = {item.id: item.text for item in knowledge.of(split, "document", having=("text",))}
    if documents or split not in KEPT:
        return documents
    return {item.id: statement(item) for item in knowledge.of(split, "qa", having=("question", "answer"))}


def statement(item: Item) -> str:
    """Question and answer as running text, without any template."""
    return f"{item.question} {item.answer}"


def variants(texts: Mapping[str, str], seed: int) -> dict[Metric, dict[str, str]]:
    """The texts by id, as they are, shuffled and reversed, by the metric that is measured on them."""
    return {
        PPL: dict(texts),
        SHUFFLED: {item: shuffled(text, f"{seed}:{item}") for item, text in texts.items()},
        REVERSED: {item: " ".join(reversed(text.split())) for item, text in texts.items()},
    }


def shuffled(text: str, key: str) -> str:
    """The words of a text in an order that only `key` decides, so that every model reads the same."""
    words = text.split()
    random.Random(key).shuffle(words)
    return " ".join(words)


def losses(subject: Subject, texts: Mapping[str, str], limit: int) -> dict[str, float]:
    """Item id -> mean negative log-likelihood in nats a token, of the first `limit` tokens of its text."""
    scored = subject.score([("", text) for text in texts.values()], limit=limit)
    return {item: -float(np.mean(one.logp)) for item, one in zip(texts, scored, strict=True)}


EVALUATORS.add("general")(Evaluator(observe, "perplexity of text, and of the same text out of order", METRICS))
