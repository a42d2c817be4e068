"""paraphrase: whether a model knows an answer however the question is worded, and gives the same one (ParaRel)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from omniq.audit.asking import asked, candidates, scored, weighed
from omniq.audit.base import EVALUATORS, LATENT, Context, Evaluator, Found, Metric
from omniq.audit.metrics.likelihood import extraction_strength, probability, without
from omniq.audit.rows import by_split, lacking, rows
from omniq.knowledge.items import Item
from omniq.subject.model import Subject

PROB = Metric("prob", "probability of the answer per token, mean over paraphrases of the question", family=LATENT)
ES = Metric("es", "extraction strength, mean over paraphrases of the question", family=LATENT)
CHOSEN = Metric("mc_acc", "share of paraphrases for which the right answer is the likeliest candidate", family=LATENT)
SAME = Metric("consistency", "share of pairs of wordings with the same likeliest candidate", knowledge=0, family=LATENT)
ALL_RIGHT = Metric(
    "consistent_accuracy", "the right answer is the likeliest candidate for every wording", family=LATENT, binary=True
)
LIKELY, CHOICE = (PROB, ES), (CHOSEN, SAME, ALL_RIGHT)
NEEDED = ("question", "answer", "question_paraphrases")
CANDIDATES = 4
"""To choose from under every wording; each costs a pass per wording."""


def observe(subject: Subject, context: Context) -> Found:
    """Likelihoods under the paraphrases, and the choices under all wordings, on every split."""

    def of_answers(split: str, items: Sequence[Item]) -> Found:
        pairs = {item.id: [asked(subject, text, item.answer) for text in item.question_paraphrases] for item in items}
        results = iter(scored(subject, context, [pair for group in pairs.values() for pair in group]))
        by_item = {key: [next(results) for _ in group] for key, group in pairs.items()}
        found: Found = []
        for metric, of in ((PROB, probability), (ES, extraction_strength)):
            means = {key: np.mean([of(one) for one in group]) for key, group in by_item.items()}
            found += rows(metric, split, items, means)
        return found

    def of_candidates(split: str, items: Sequence[Item]) -> Found:
        fitting = [item for item in items if candidates(item)[0]]
        if fitting:
            return choices(subject, context, split, fitting)
        return lacking(CHOICE, context.knowledge, split, "qa", ("wrong_answers", "choices"))

    found = by_split(context, LIKELY, "qa", NEEDED, of_answers)
    return found + by_split(context, CHOICE, "qa", NEEDED, of_candidates)


def choices(subject: Subject, context: Context, split: str, items: Sequence[Item]) -> Found:
    """What is chosen under every wording, and whether that is one thing and the right one."""
    wordings = {item.id: (item.question, *item.question_paraphrases) for item in items}
    wanted = {(item.id, at): (text, shortlist(item)) for item in items for at, text in enumerate(wordings[item.id])}
    weights = weighed(subject, context, wanted)
    right, same, every = {}, {}, {}
    for item in items:
        last = len(shortlist(item)) - 1
        chosen = [top(weights[item.id, at]) for at in range(len(wordings[item.id]))]
        right[item.id] = np.mean([one == last for one in chosen[1:]])
        same[item.id] = np.mean([a == b for a, b in combinations(chosen, 2)])
        every[item.id] = float(set(chosen) == {last})
    chances = {item.id: 1 / len(shortlist(item)) for item in items}
    found = rows(CHOSEN, split, items, right, chances=chances)
    return found + rows(SAME, split, items, same) + rows(ALL_RIGHT, split, items, every)


def shortlist(item: Item) -> tuple[str, ...]:
    """The first wrong candidates and, last, the right one, CANDIDATES in all."""
    answers, place = candidates(item)
    return (*without(answers, place)[: CANDIDATES - 1], answers[place])


def top(logp: Sequence[float]) -> int:
    """The place of the largest number, the first of several: where the right one, the last, ties it is not chosen."""
    return int(np.argmax(logp))


EVALUATORS.add("paraphrase")(Evaluator(observe, "other wordings of the question, and consistency", LIKELY + CHOICE))
