"""How items are put to a model: prompts, answers side by side, and scores that several evaluators share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from omniq.audit.base import Context
from omniq.knowledge.items import Item
from omniq.subject.model import Subject, mean_logp
from omniq.subject.scoring import Scored

QUESTION_STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends if the model goes on to ask itself the next question, as MUSE cuts it."""

Pair = tuple[str, str]


def asked(subject: Subject, question: str, answer: str) -> Pair:
    """Prompt and answer of a question, put through the template."""
    return subject.template.prompt(question), subject.template.answer(answer)


def completed(item: Item, answer: str) -> Pair:
    """Prefix and answer of a cloze: a space belongs to the answer, as where a sentence is tokenised whole."""
    return item.prefix.rstrip(), f" {answer}"


def stops(subject: Subject) -> tuple[str, ...]:
    """Where a written answer ends beside the template's own end; a chat model's answer may have paragraphs."""
    return QUESTION_STOPS if subject.template.name == "plain" else ()


def true_side(item: Item) -> str:
    """The true answer that the wrong ones are worded like: the first paraphrase, or the answer if it has none."""
    return item.answer_paraphrases[0] if item.answer_paraphrases else item.answer


def candidates(item: Item) -> tuple[tuple[str, ...], int]:
    """Answers worded alike and the right one's place: the choices, or the true side and the wrong answers; or ()."""
    if item.choices and item.answer_index is not None:
        return item.choices, item.answer_index
    return ((true_side(item), *item.wrong_answers), 0) if item.wrong_answers else ((), 0)


def scored(subject: Subject, context: Context, pairs: Sequence[Pair]) -> list[Scored]:
    """Scored of every pair, at most text_tokens long, each pair asked once of a model however many evaluators need it.

    What is kept belongs to the subject and goes when it goes; its weights must not change in between.
    """
    models: WeakKeyDictionary[Subject, dict[Pair, Scored]] = context.kept("scored pairs", WeakKeyDictionary)
    kept = models.setdefault(subject, {})
    new = [pair for pair in dict.fromkeys(pairs) if pair not in kept]
    kept.update(zip(new, subject.score(new, limit=context.settings.text_tokens), strict=True))
    return [kept[pair] for pair in pairs]


def weighed(
    subject: Subject, context: Context, asked_of: Mapping[str, tuple[str, Sequence[str]]]
) -> dict[str, list[float]]:
    """By any key a question and answers to it -> the mean log-probability of each answer, in nats a token."""
    pairs = [asked(subject, question, answer) for question, answers in asked_of.values() for answer in answers]
    results = iter(scored(subject, context, pairs))
    return {key: [mean_logp(next(results)) for _ in answers] for key, (_, answers) in asked_of.items()}
