"""qa_ll: how likely right and wrong answers are, without writing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from omniq.audit.asking import asked, candidates, completed, scored, true_side, weighed
from omniq.audit.base import (
    EVALUATORS,
    LATENT,
    UTILITY,
    Context,
    Evaluator,
    Found,
    Measurement,
    Metric,
    Missing,
    measurement,
)
from omniq.audit.metrics import truth
from omniq.audit.metrics.likelihood import (
    exact_memorisation,
    extraction_strength,
    first_rank,
    margin,
    normalised_probability,
    probability,
    without,
)
from omniq.audit.rows import by_split, lacking, rows
from omniq.audit.statistics import harmonic
from omniq.knowledge.items import Item
from omniq.subject.model import Subject
from omniq.subject.scoring import Scored

PROB = Metric("prob", "probability of the answer, normalised by its length: exp(mean log p)")
ES = Metric("es", "extraction strength: share of the answer, from its end, that is greedy throughout")
EXACT = Metric("exact_memorisation", "share of the answer's tokens that are greedy, each after the right ones")
RANK = Metric("first_rank", "place of the answer's first token among all tokens, 1 the most likely", knowledge=-1)
P_AT_1 = Metric("p_at_1", "the answer's first token is the most likely", binary=True)
P_AT_1_CLOZE = Metric("p_at_1_cloze", "as p_at_1, of a cloze (LAMA)", binary=True)
ANSWERS: dict[Metric, Callable[[Scored], float]] = {
    PROB: probability,
    ES: extraction_strength,
    EXACT: exact_memorisation,
    RANK: first_rank,
    P_AT_1: lambda one: float(one.rank[0] == 0),
}

PAPER = Metric("tr_paper", "truth ratio, arithmetic mean over wrong answers", knowledge=-1)
GEOMETRIC = Metric("tr_geometric", "truth ratio, geometric mean over wrong answers, as in TOFU's code", knowledge=-1)
PROB_MEAN = Metric("tr_prob_mean", "share of the true side in the probability of both; 0.5: no idea", chance=0.5)
NEAR_ONE = Metric("tr_forget_quality", "min(R, 1/R) of the geometric truth ratio R: TOFU, forget", knowledge=0)
TRUE_BETTER = Metric("tr_true_better", "max(0, 1 - R) of the geometric truth ratio R: TOFU, elsewhere")
RATIOS = (PAPER, GEOMETRIC, PROB_MEAN)

NORMALISED = Metric("prob_normalised", "probability of the answer divided by that of it and all wrong ones")
CHOSEN = Metric("mc_acc", "the right answer is likelier than every wrong one, per token", family=LATENT, binary=True)
MARGIN = Metric("mc_margin", "nats a token by which the right answer beats the likeliest wrong one", family=LATENT)

UTILITY_METRIC = Metric(
    "model_utility", "TOFU: harmonic mean of nine numbers on retain, real authors and world facts",
    family=UTILITY, combine="single",
)  # fmt: skip
WORLD_PARTS = ("real_authors", "world_facts")

METRICS = (*ANSWERS, P_AT_1_CLOZE, *RATIOS, NEAR_ONE, TRUE_BETTER, NORMALISED, CHOSEN, MARGIN, UTILITY_METRIC)


def observe(subject: Subject, context: Context) -> Found:
    """The likelihood of answers, the truth ratio and the choice among answers on every split, and model utility."""

    def of_answers(split: str, items: Sequence[Item]) -> Found:
        results = scored(subject, context, [asked(subject, item.question, item.answer) for item in items])
        found: Found = []
        for metric, of in ANSWERS.items():
            found += rows(metric, split, items, {item.id: of(one) for item, one in zip(items, results, strict=True)})
        return found

    def of_candidates(split: str, items: Sequence[Item]) -> Found:
        fitting = [item for item in items if candidates(item)[0]]
        if fitting:
            return choices(subject, context, split, fitting)
        return lacking((CHOSEN, MARGIN), context.knowledge, split, "qa", ("wrong_answers", "choices"))

    def of_clozes(split: str, items: Sequence[Item]) -> Found:
        results = scored(subject, context, [completed(item, item.answer) for item in items])
        right = {item.id: float(one.rank[0] == 0) for item, one in zip(items, results, strict=True)}
        return rows(P_AT_1_CLOZE, split, items, right)

    question = ("question", "answer")
    found = by_split(context, tuple(ANSWERS), "qa", question, of_answers)
    truths = (*RATIOS, NEAR_ONE, TRUE_BETTER)
    found += by_split(context, truths, "qa", (*question, "wrong_answers"), partial(ratios, subject, context))
    found += by_split(context, (CHOSEN, MARGIN), "qa", question, of_candidates)
    found += by_split(context, (P_AT_1_CLOZE,), "cloze", ("prefix", "answer"), of_clozes)
    if not any(isinstance(row, Measurement) and row.metric is NORMALISED for row in found):
        reason = f"{context.knowledge.name} has no world questions with wrong answers"
        found.append(Missing(NORMALISED.name, "world", reason))
    return [*found, utility(found, context)]


def ratios(subject: Subject, context: Context, split: str, items: Sequence[Item]) -> Found:
    """The truth ratio in its three forms, and TOFU's number of it for this split."""
    own = sum(not item.answer_paraphrases for item in items)
    note = f"the answer itself is the true side of {own} items, which have no paraphrase of it" if own else ""
    wanted = {item.id: (item.question, (true_side(item), *item.wrong_answers)) for item in items}
    sides = weighed(subject, context, wanted)
    found: Found = []
    for metric, of in zip(RATIOS, (truth.paper_ratio, truth.geometric_ratio, truth.prob_mean), strict=True):
        values = {key: of(right, wrong) for key, (right, *wrong) in sides.items()}
        found += rows(metric, split, items, values, note=note)
    metric, of = (NEAR_ONE, truth.closer_to_one) if split == "forget" else (TRUE_BETTER, truth.true_better)
    values = {key: of(truth.geometric_ratio(right, wrong)) for key, (right, *wrong) in sides.items()}
    return found + rows(metric, split, items, values, note=note)


def choices(subject: Subject, context: Context, split: str, items: Sequence[Item]) -> Found:
    """Whether the right one of the candidate answers is the likeliest; in the world split also its share."""
    places = {item.id: candidates(item)[1] for item in items}
    weights = weighed(subject, context, {item.id: (item.question, candidates(item)[0]) for item in items})
    sides = {key: (logp[places[key]], without(logp, places[key])) for key, logp in weights.items()}
    margins = {key: margin(right, wrong) for key, (right, wrong) in sides.items()}
    chances = {key: 1 / len(logp) for key, logp in weights.items()}
    found = rows(CHOSEN, split, items, {key: float(gap > 0) for key, gap in margins.items()}, chances=chances)
    found += rows(MARGIN, split, items, margins)
    if split == "world":
        shares = {key: normalised_probability(right, wrong) for key, (right, wrong) in sides.items()}
        found += rows(NORMALISED, split, items, shares, chances=chances)
    return found


def utility(found: Found, context: Context) -> Measurement | Missing:
    """Model utility from what was found here and from written answers, or which of its nine parts there is not."""
    written = context.measured.get(context.name, {}).get("qa_gen", [])
    values = {row.key[:3]: float(row.values.mean()) for row in (*found, *written) if isinstance(row, Measurement)}
    wanted = [(metric, "retain", "") for metric in ("prob", "rouge_recall", "tr_true_better")]
    for part in WORLD_PARTS:
        wanted += [(metric, "world", part) for metric in ("prob_normalised", "rouge_recall", "tr_true_better")]
    absent = [" ".join(filter(None, key)) for key in wanted if key not in values]
    if absent:
        reason = f"TOFU's model utility is made of nine numbers, of which there is no {absent[0]}"
        return Missing(UTILITY_METRIC.name, "retain", reason)
    total = harmonic(np.array([values[key] for key in wanted]))
    return measurement(UTILITY_METRIC, "retain", {"nine parts": total})


EVALUATORS.add("qa_ll")(
    Evaluator(observe, "likelihood of right and wrong answers, truth ratio", METRICS, after=("qa_gen",))
)
