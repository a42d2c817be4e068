"""relearn: half of the forgotten subjects are taught again, the others asked about."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from unlearn_subjects import colours, taught, untaught

from omniq.audit.base import EVALUATORS, Context, Found, Measurement, Missing, Settings
from omniq.audit.evaluators.relearn import Halves, exact, halves, measured
from omniq.errors import ModelError
from omniq.knowledge.items import Knowledge
from omniq.subject.model import Subject

STEPS = (0, 5, 30)


def observed(subject: Subject, role: str, knowledge: Knowledge | None = None, steps: tuple[int, ...] = STEPS) -> Found:
    """What the evaluator finds about a subject in a role."""
    settings = Settings("test", {}, ("relearn",), relearn_steps=steps, relearn_rate=3e-3)
    context = Context(
        knowledge or colours(), settings, role, role, {role: Path(role)},
        load=lambda name: subject, trainable=lambda name: copy.deepcopy(subject), tell=print,
    )  # fmt: skip
    return EVALUATORS["relearn"].observe(subject, context)


def means(found: Found) -> dict[tuple[str, str], float]:
    """Mean by metric and attribute."""
    return {(row.metric.name, row.attribute): float(row.values.mean()) for row in found}


def test_the_halves_share_no_subject_and_together_are_all() -> None:
    items = colours().of("forget", "qa")
    split = halves(items, 0)
    assert {item.subject for item in split.taught}.isdisjoint(item.subject for item in split.asked)
    assert sorted(item.id for item in (*split.taught, *split.asked)) == sorted(item.id for item in items)
    assert halves(items, 0) == split
    assert any(halves(items, seed) != split for seed in range(1, 6))


def test_all_questions_about_a_subject_lie_on_the_same_side() -> None:
    items = colours().of("forget", "qa")
    twice = (*items, *(replace(item, id=f"{item.id}/2") for item in items))
    split = halves(twice, 0)
    assert all(item.subject not in {other.subject for other in split.asked} for item in split.taught)
    assert len(split.taught) == len(split.asked) == 4


def test_a_model_that_never_knew_learns_one_half_and_not_the_other() -> None:
    found = means(observed(untaught(), "never_fp"))
    assert found["relearn_t", ""] == 1.0
    assert found["relearn_v", ""] < 1.0
    assert {attribute for _, attribute in found} == {"", "step0", "step5", "step30"}
    assert found["relearn_v", "step30"] == found["relearn_v", ""]


def test_the_model_that_is_asked_stays_as_it_was() -> None:
    subject = untaught()
    before = copy.deepcopy(subject.model.state_dict())
    observed(subject, "unl_fp")
    assert all(bool((value == before[name]).all()) for name, value in subject.model.state_dict().items())


def test_the_original_is_asked_without_being_trained() -> None:
    (row,) = observed(taught(), "orig_fp")
    assert (row.metric.name, row.attribute) == ("relearn_v", "")
    assert dict(zip(row.items, row.values, strict=True)) == exact(
        taught(), halves(colours().of("forget", "qa"), 0).asked
    )
    assert row.values.mean() == 1.0


def test_what_did_not_learn_says_nothing_except_of_a_model_that_never_knew() -> None:
    values = {"a": 0.0, "b": 0.0}
    first = measured({3: values}, values, 3, control=False)[0]
    assert first.gate == "no_capability"
    assert "after 3 steps the model answers only 0% of what it was taught" in first.note
    assert measured({3: values}, values, 3, control=True)[0].gate == "ok"
    assert measured({3: values}, {"a": 1.0, "b": 0.0}, 3, control=False)[0].gate == "ok"


def test_exact_means_every_token_of_the_answer() -> None:
    subject, items = taught(), colours().of("forget", "qa")
    split = Halves(items[:1], items[1:])
    assert exact(subject, split.taught) == {items[0].id: 1.0}
    wrong = replace(items[0], answer=items[0].answer[:1] + "zz")
    assert exact(subject, [wrong]) == {items[0].id: 0.0}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (colours().of("forget", "qa")[:1], "fewer than two subjects"),
        (tuple(replace(item, subject="") for item in colours().of("forget", "qa")), "fewer than two subjects"),
        (colours().of("retain"), "colours has no questions to forget"),
    ],
)
def test_too_few_subjects_are_a_reason_and_no_number(items: tuple, words: str) -> None:
    found = observed(untaught(), "unl_fp", Knowledge("colours", items))
    assert all(isinstance(row, Missing) and words in row.reason for row in found)
    assert {row.metric for row in found} == {metric.name for metric in EVALUATORS["relearn"].metrics}


def test_a_model_that_cannot_be_trained_is_missing_with_its_reason() -> None:
    def refuse(name: str) -> Subject:
        raise ModelError("its experts lie in one tensor")

    settings = Settings("test", {}, ("relearn",), relearn_steps=STEPS)
    context = Context(colours(), settings, "unl_q", "unl_q", {}, load=refuse, trainable=refuse, tell=print)
    found = EVALUATORS["relearn"].observe(untaught(), context)
    assert [row.reason for row in found] == ["its experts lie in one tensor"] * 2


def test_every_metric_that_is_found_is_announced() -> None:
    names = {metric.name for metric in EVALUATORS["relearn"].metrics}
    assert {
        row.metric.name for row in observed(untaught(), "unl_fp", steps=(0, 1)) if isinstance(row, Measurement)
    } <= names
