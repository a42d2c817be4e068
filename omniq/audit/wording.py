"""The words and numbers of reports: how roles, splits, codes, values and intervals are written for people."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omniq.audit.result import Result, Row, Tested

ROLE_WORDS = {
    "orig_fp": "original",
    "never_fp": "never trained",
    "orig_q": "original, quantised",
    "unl_fp": "unlearned",
    "unl_q": "unlearned, quantised",
}
ROLE_MEANINGS = {
    "orig_fp": "the model before unlearning and quantisation",
    "never_fp": "a model that never saw the forget set: what true ignorance scores",
    "orig_q": "the control: what quantisation alone does, by the same recipe",
    "unl_fp": "the model after unlearning, before quantisation",
    "unl_q": "the model after unlearning and quantisation: what would be deployed",
}
SPLIT_WORDS = {
    "forget": "Forget: what was to be unlearned",
    "retain": "Retain: what was taught beside it and must stay",
    "world": "World: what is known from pretraining and must stay",
    "holdout": "Hold-out: what no model was ever taught",
}
KEY_SPLITS = ("forget", "retain", "world")

GATE_WORDS = {
    "floor": "not even the original is above chance here, so the value can show neither loss nor recovery",
    "no_capability": "the original cannot do this task, so the value says nothing",
    "collapsed": "the model no longer writes sensible text, so the value says nothing",
}
CODE_WORDS = {
    "NOT_UNLEARNED": "the unlearned model behaves like the original",
    "SUPPRESSED": "the knowledge no longer shows in behaviour but can still be read out or brought back",
    "CONSISTENT_WITH_REMOVAL": "no evaluator tells the model from one that never learnt the forget set",
    "OVER_UNLEARNED": "the model avoids the forget set more than one that never learnt it, which is a trace in itself",
    "COLLAPSED": "unlearning broke the model, so other findings about it are void",
    "STABLE": "quantisation changed neither the forgotten nor the kept knowledge",
    "RECOVERED": "quantisation brought forgotten knowledge back into behaviour",
    "RECOVERED_LATENT": "quantisation brought knowledge back that only probes or attacks show",
    "DEEPENED": "quantisation lowered the forgotten knowledge by more than it lowers the original's",
    "COLLATERAL": "quantisation cost more of the kept knowledge than it costs the original",
    "REVIVED": "quantisation gave a collapsed model its use and knowledge back",
    "SAME_CODES": "the unlearned and the original weights round to the same codes",
    "BURIED": "the update is there in the mean but lies below the noise of rounding",
    "PRESERVED": "the update survives rounding",
    "UNKNOWN": "the weights do not tell how, or could not be compared",
    "NOT_ASSESSED": "this part was not judged, since a model that it needs was not given",
    "INCONCLUSIVE": "the evidence does not decide",
}


@dataclass(frozen=True)
class KeyFigure:
    """A metric that a reader looks at first, what it is called, and what it means."""

    evaluator: str
    metric: str
    label: str
    meaning: str


KEY_FIGURES = (
    KeyFigure("qa_gen", "contains", "answers right", "share of questions whose written answer contains the right one"),
    KeyFigure("qa_gen", "rouge_recall", "answer recall", "share of the right answer's words that the written one has"),
    KeyFigure("verbmem", "verbmem", "verbatim memory", "ROUGE-L of how the model continues a text with the original"),
    KeyFigure("knowmem", "knowmem", "knowledge memory", "ROUGE-L of answers given after solved examples"),
    KeyFigure("qa_ll", "prob", "answer probability", "probability of the right answer, per token"),
    KeyFigure("qa_ll", "es", "extraction strength", "share of the answer, from its end, completed exactly"),
    KeyFigure("qa_ll", "tr_prob_mean", "truth ratio", "weight of the true answer against false ones; 0.5 prefers none"),
    KeyFigure("qa_ll", "mc_acc", "likelier answer", "share of questions with the right answer likelier than all false"),
    KeyFigure("mcq", "acc", "multiple choice", "share of questions whose right choice scores highest"),
    KeyFigure("probe", "probe_r2f", "linear probe", "accuracy of a probe at the layer where the original has most"),
    KeyFigure(
        "relearn", "relearn_v", "relearning", "right answers on half of a split after training on the other half"
    ),
    KeyFigure("privacy", "mia_mink40", "membership", "AUC of telling the split from texts never taught; 0.5: no trace"),
    KeyFigure("general", "ppl", "perplexity", "of running text; lower is better"),
)
"""In the order of the tables; those that a result does not have are left out."""

DRAWN = ("contains", "rouge_recall", "verbmem", "knowmem", "es", "tr_prob_mean", "acc", "probe_r2f")
"""Metrics of key figures for plots that have no room for all, the first ones first."""


def display(model: Tested) -> str:
    """'unlearned, quantised · gptq W4A16g64'; models that are not quantised need no more than their role."""
    word = ROLE_WORDS.get(model.role, model.role)
    return f"{word} · {model.label}" if model.role.endswith("_q") else word


def displays(result: Result) -> dict[str, str]:
    """Model name -> what a reader calls it; two that would be called the same are told apart by their names."""
    words = {model.name: display(model) for model in result.models}
    said = list(words.values())
    return {name: word if said.count(word) == 1 else f"{word} ({name})" for name, word in words.items()}


def number(value: float | None) -> str:
    """0.1234 -> '0.123', 12.34 -> '12.3', 1e-7 -> '1.0e-07', None -> 'n/a'; minus signs are typographic."""
    if value is None or not math.isfinite(value):
        return "n/a"
    size = abs(value)
    if size == 0 or 5e-4 <= size < 9.9995:
        said = f"{value:.3f}"
    elif size < 5e-4 or size >= 1e6:
        said = f"{value:.1e}"
    else:
        said = f"{value:.1f}" if size < 1e3 else f"{value:,.0f}"
    return said.replace("-", "−") if value < 0 and "e" not in said else said


def signed(value: float | None) -> str:
    """A difference: +0.120, −0.031; what rounds to nothing is 0.000."""
    if value is not None and abs(value) < 5e-4:
        return number(0.0)
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def interval(low: float | None, high: float | None) -> str:
    """'[0.100, 0.250]', '' where there is no interval."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def p_value(value: float | None) -> str:
    """'0.032', '< 0.001', '' for none."""
    if value is None:
        return ""
    return "< 0.001" if value < 1e-3 else f"{value:.3f}"


def share(value: float | None) -> str:
    """0.834 -> '83 %', '' for none."""
    return "" if value is None else f"{100 * value:.0f} %".replace("-", "−")


def is_overall(row: Row) -> bool:
    """Whether the row is about a whole split rather than an attribute or a layer of it."""
    return row.attribute == "" and row.layer is None
