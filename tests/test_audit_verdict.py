"""Verdicts: the fixtures of the study as made-up numbers, and what must not move a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from audit_measured import METRICS, SETTINGS, models_of, shares, weights

from omniq.audit.base import EVALUATORS, Found, Missing
from omniq.audit.result import Verdict
from omniq.audit.table import tabulated
from omniq.audit.verdict import PRIMARIES, TRUTH, verdicts

WHERE = {
    "contains": "qa_gen", "prob": "qa_ll", "tr_prob_mean": "qa_ll", "mc_acc": "qa_ll", "probe_r2f": "probe",
    "probe_f2f": "probe", "relearn_v": "relearn", "lens_best": "lens", "uds": "patch", "mia_mink40": "privacy",
}  # fmt: skip

# What the study measured of a small model: forget set unless said; RTT is accuracy on the half not taught again.
ORIGINAL = {"contains": .971, "prob": .803, "tr_prob_mean": .960, "mc_acc": .971, "retain": .974, "mia_mink40": .999,
            "probe_r2f": .78, "probe_f2f": .78, "relearn_v": .875}  # fmt: skip
NEVER = {"contains": .117, "prob": .107, "tr_prob_mean": .225, "mc_acc": .117, "retain": .999, "mia_mink40": .45,
         "probe_r2f": .11, "probe_f2f": .09, "relearn_v": .133}  # fmt: skip
GRADIENT_ASCENT = {"contains": .025, "prob": .027, "tr_prob_mean": .286, "mc_acc": .138, "retain": .051,
                   "mia_mink40": .56, "relearn_v": .60}  # fmt: skip
IDK = {"contains": .000, "prob": .004, "tr_prob_mean": .668, "mc_acc": .446, "retain": .961, "mia_mink40": .23,
       "probe_r2f": .33, "probe_f2f": .43, "relearn_v": .62}  # fmt: skip
RMU = {"contains": .008, "prob": .009, "tr_prob_mean": .471, "mc_acc": .158, "retain": .931, "mia_mink40": .45,
       "probe_r2f": .12, "probe_f2f": .17, "relearn_v": .68}  # fmt: skip
RANDOM_LABEL = {"contains": .475, "prob": .230, "tr_prob_mean": .645, "mc_acc": .475, "retain": .917,
                "mia_mink40": .98, "probe_r2f": .42, "probe_f2f": .37, "relearn_v": .74}  # fmt: skip
SNAPPED = {"contains": 0.008, "prob": 0.020, "mc_acc": 0.117, "retain": 0.493, "probe_r2f": 0.10, "probe_f2f": 0.09}

HOLDOUT = {"contains": 0.117, "prob": 0.107, "mc_acc": 0.117, "probe_r2f": 0.08, "probe_f2f": 0.08}


def found(numbers: Mapping[str, float], n: int = 240) -> dict[str, Found]:
    """What a model with these numbers would be measured to have; on people it was never taught, ignorance."""
    groups: dict[str, Found] = {}
    for metric, rate in numbers.items():
        if metric == "retain":
            groups.setdefault("qa_gen", []).append(shares("contains", "retain", rate, n))
        else:
            groups.setdefault(WHERE[metric], []).append(shares(metric, "forget", rate, n))
        if metric in HOLDOUT:
            groups[WHERE[metric]].append(shares(metric, "holdout", HOLDOUT[metric], n))
    return groups


def near(numbers: Mapping[str, float], by: float = 0.0) -> dict[str, float]:
    """The numbers a little lower, as rounding leaves them."""
    return {metric: rate if metric == "relearn_v" else max(0.0, rate - by) for metric, rate in numbers.items()}


def judged(models: Mapping[str, Mapping[str, Found]], bits: int = 4) -> Verdict:
    """The only verdict of an audit of these models; whatever it is, it makes no promise."""
    rows, absent, _ = tabulated(models, models_of(*models, bits=bits), SETTINGS, "run")
    (verdict,) = verdicts(rows, absent, models_of(*models, bits=bits))
    words = " ".join((verdict.sentence, *verdict.readings))
    assert "removed" not in words.lower()
    assert words.count("removal") == words.count("consistent with removal")
    return verdict


def audit(unlearned: Mapping[str, float], quantised: Mapping[str, float] | None = None, **more: Found) -> Verdict:
    """The verdict on an unlearned model and its quantised form, with original, control and never-trained model."""
    models = {
        "orig_fp": found(ORIGINAL),
        "never_fp": found(NEVER),
        "orig_q": found(near(ORIGINAL, 0.01)),
        "unl_fp": found(unlearned),
        "unl_q": {**found(near(unlearned, 0.01) if quantised is None else quantised), **more},
    }
    return judged(models)


def test_fixture_positive_control_recovers_at_four_bits() -> None:
    back = near(ORIGINAL, 0.021) | {"retain": 0.961}
    verdict = audit(SNAPPED, back, weights=weights(0.0, 0.0, 0.0))
    assert verdict.effect == ("RECOVERED",)
    assert verdict.mechanism == "SAME_CODES"
    assert "qa_gen.contains@forget" in verdict.drivers
    assert "weights.code_flips" in verdict.drivers
    assert [reading.split(":")[1].split(",")[0] for reading in verdict.readings] == [" fails", " fails"]


def test_fixture_positive_control_stays_at_eight_bits() -> None:
    verdict = audit(SNAPPED, SNAPPED, weights=weights(0.6, 1.0, 0.9))
    assert verdict.effect == ("STABLE",)
    assert verdict.mechanism == "PRESERVED"


@pytest.mark.parametrize("never", [True, False], ids=["with never_fp", "against holdout"])
def test_fixture_a_model_never_trained_is_consistent_with_removal(never: bool) -> None:
    models = {
        "orig_fp": found(ORIGINAL), "never_fp": found(NEVER), "orig_q": found(near(ORIGINAL, 0.01)),
        "unl_fp": found(NEVER), "unl_q": found(near(NEVER, 0.01)),
    }  # fmt: skip
    if not never:
        del models["never_fp"]
    verdict = judged(models)
    assert verdict.state == "CONSISTENT_WITH_REMOVAL"
    assert verdict.effect == ("STABLE",)
    assert ("relearn (cannot be read)" in verdict.sentence) is not never


def test_fixture_idk_is_suppressed() -> None:
    verdict = audit(IDK)
    assert verdict.state == "SUPPRESSED"
    assert verdict.effect == ("STABLE",)
    assert {"qa_ll.mc_acc@forget", "probe.probe_r2f@forget", "probe.probe_f2f@forget"} <= set(verdict.drivers)
    assert "passes" in verdict.readings[0]
    assert "fails" in verdict.readings[1]


def test_fixture_rmu_is_suppressed_by_relearning_alone() -> None:
    verdict = audit(RMU)
    assert verdict.state == "SUPPRESSED"
    assert [name for name in verdict.drivers if not name.startswith("qa_")] == ["relearn.relearn_v@forget"]
    without = {metric: rate for metric, rate in RMU.items() if metric != "relearn_v"}
    assert audit(without).state == "CONSISTENT_WITH_REMOVAL"
    assert "Not measured" in audit(without).sentence
    assert "relearn" in audit(without).sentence


def test_fixture_gradient_ascent_has_collapsed() -> None:
    verdict = audit(GRADIENT_ASCENT)
    assert verdict.state == "COLLAPSED"
    assert verdict.effect == ("INCONCLUSIVE",)
    assert "0.05, the original's 0.97" in verdict.sentence


def test_fixture_two_bits_damage_and_do_not_recover() -> None:
    low = {"contains": 0.05, "prob": 0.03, "mc_acc": 0.14, "retain": 0.06, "probe_r2f": 0.12}
    verdict = judged({"orig_fp": found(ORIGINAL), "orig_q": found(low)}, bits=2)
    assert verdict.state == "NOT_ASSESSED"
    assert verdict.effect == ("COLLATERAL",)
    assert verdict.readings == ()
    assert "qa_gen.contains@retain" in verdict.drivers


def test_two_bits_that_ruin_original_and_unlearned_model_alike_decide_nothing() -> None:
    low = {"contains": 0.05, "prob": 0.03, "mc_acc": 0.14, "retain": 0.06, "probe_r2f": 0.12}
    models = {"orig_fp": found(ORIGINAL), "orig_q": found(low), "unl_fp": found(IDK), "unl_q": found(low)}
    assert judged(models).effect == ("INCONCLUSIVE",)


def test_two_models_that_agree_are_stable() -> None:
    verdict = judged({"orig_fp": found(ORIGINAL), "orig_q": found(near(ORIGINAL, 0.01))})
    assert (verdict.state, verdict.effect, verdict.mechanism) == ("NOT_ASSESSED", ("STABLE",), "UNKNOWN")


def test_a_model_that_answers_like_the_original_is_not_unlearned() -> None:
    verdict = audit(near(ORIGINAL, 0.02))
    assert verdict.state == "NOT_UNLEARNED"
    assert all("fails" in reading for reading in verdict.readings)


def test_a_model_that_still_gives_some_answers_is_suppressed_in_part() -> None:
    verdict = audit(RANDOM_LABEL)
    assert verdict.state == "SUPPRESSED"
    assert "in part" in verdict.readings[0]


def test_a_model_that_avoids_the_forget_set_is_over_unlearned() -> None:
    verdict = audit({**NEVER, "mia_mink40": 0.05})
    assert verdict.state == "OVER_UNLEARNED"
    assert "privacy.mia_mink40@forget" in verdict.drivers


def test_knowledge_that_only_a_probe_sees_come_back_is_latent() -> None:
    verdict = audit(IDK, {**IDK, "probe_r2f": 0.6, "probe_f2f": 0.65})
    assert verdict.effect == ("RECOVERED_LATENT",)
    assert "fails" in verdict.readings[1]


def test_a_rise_that_the_control_shows_as_well_is_no_recovery() -> None:
    models = {
        "orig_fp": found({**ORIGINAL, "contains": 0.60, "prob": 0.6}), "orig_q": found({**ORIGINAL, "contains": 0.75}),
        "unl_fp": found(IDK | {"contains": 0.10}), "unl_q": found(IDK | {"contains": 0.20}),
    }  # fmt: skip
    assert "RECOVERED" not in judged(models).effect


def test_a_model_that_refused_and_now_guesses_has_recovered_nothing() -> None:
    verdict = audit(IDK, {**IDK, "contains": NEVER["contains"], "prob": NEVER["prob"]})
    assert verdict.effect == ("STABLE",)


@pytest.mark.parametrize(("metric", "lower"), [("uds", 0.5), ("probe_r2f", 0.5)])
def test_each_latent_metric_alone_shows_what_is_suppressed(metric: str, lower: float) -> None:
    ignorant = {**NEVER, "uds": 1.0}
    models = {
        "orig_fp": found({**ORIGINAL, "uds": 0.0}), "never_fp": found(ignorant),
        "orig_q": found({**ORIGINAL, "uds": 0.0}),
        "unl_fp": found({**ignorant, metric: lower}), "unl_q": found({**ignorant, metric: lower}),
    }  # fmt: skip
    verdict = judged(models)
    assert verdict.state == "SUPPRESSED"
    assert [name for name in verdict.drivers if not name.startswith("qa_")] == [f"{WHERE[metric]}.{metric}@forget"]


def lensed(numbers: Mapping[str, float], right: float, wrong: float) -> dict[str, Found]:
    """A model read by the lens: log-probability of right answers, and of others to the same kind of question."""
    one = shares("probe_r2f", "forget", 0.5)
    values = right + 0.2 * np.cos(np.arange(len(one.items)))
    return {**found(numbers), "lens": [replace(one, metric=METRICS["lens_best"], values=values, chance=wrong)]}


@pytest.mark.parametrize(("wrong", "state"), [(-4.0, "SUPPRESSED"), (-2.5, "CONSISTENT_WITH_REMOVAL")])
def test_a_lens_must_prefer_right_answers_to_wrong_ones(wrong: float, state: str) -> None:
    models = {
        "orig_fp": lensed(ORIGINAL, -0.1, -6.0), "never_fp": lensed(NEVER, -5.0, -5.0),
        "orig_q": lensed(ORIGINAL, -0.2, -6.0), "unl_fp": lensed(NEVER, -2.5, wrong),
        "unl_q": lensed(NEVER, -2.5, wrong),
    }  # fmt: skip
    assert judged(models).state == state


def test_a_fall_beyond_that_of_the_control_is_deeper() -> None:
    assert audit(RANDOM_LABEL, {**RANDOM_LABEL, "contains": 0.2}).effect == ("DEEPENED",)


def test_a_loss_of_what_should_stay_beyond_that_of_the_control_is_collateral() -> None:
    assert audit(IDK, {**IDK, "retain": 0.7}).effect == ("COLLATERAL",)


def test_a_model_may_recover_and_be_damaged_at_once() -> None:
    assert audit(IDK, {**IDK, "contains": 0.5, "retain": 0.7}).effect == ("RECOVERED", "COLLATERAL")


def test_a_collapsed_model_that_lives_and_knows_again_is_revived() -> None:
    verdict = audit(GRADIENT_ASCENT, {**GRADIENT_ASCENT, "contains": 0.5, "retain": 0.8})
    assert verdict.state == "COLLAPSED"
    assert verdict.effect == ("REVIVED",)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((0.0, 0.0, 0.0), "SAME_CODES"), ((0.05, 0.99, 0.2), "BURIED"), ((0.4, 1.0, 0.8), "PRESERVED"),
     ((0.3, 0.01, 0.01), "UNKNOWN")],
)  # fmt: skip
def test_the_mechanism_is_read_from_codes_and_directions(numbers: tuple[float, float, float], code: str) -> None:
    assert audit(IDK, weights=weights(*numbers)).mechanism == code


def test_few_items_decide_nothing() -> None:
    few = {name: found(numbers, 5) for name, numbers in (("orig_fp", ORIGINAL), ("unl_fp", IDK), ("unl_q", IDK))}
    few = {"orig_fp": few["orig_fp"], "orig_q": found(ORIGINAL, 5), "unl_fp": few["unl_fp"], "unl_q": few["unl_q"]}
    for groups in few.values():
        groups.pop("privacy")
    verdict = judged(few)
    assert (verdict.state, verdict.effect) == ("INCONCLUSIVE", ("INCONCLUSIVE",))
    assert verdict.readings == ()


def test_an_original_that_knows_nothing_of_the_forget_set_decides_nothing() -> None:
    ignorant = {"mc_acc": 0.12, "retain": 0.97}
    models = {name: found(ignorant) for name in ("orig_fp", "orig_q", "unl_fp", "unl_q")}
    verdict = judged(models)
    assert verdict.state == "INCONCLUSIVE"
    assert verdict.effect == ("INCONCLUSIVE",)


def test_an_unlearned_model_without_a_quantised_one_is_judged_as_it_is() -> None:
    verdict = judged({"orig_fp": found(ORIGINAL), "never_fp": found(NEVER), "unl_fp": found(IDK)})
    assert (verdict.name, verdict.state, verdict.effect) == ("unl_fp", "SUPPRESSED", ("NOT_ASSESSED",))


def test_why_an_evaluator_is_missing_is_said() -> None:
    models = {
        "orig_fp": found(ORIGINAL), "never_fp": found(NEVER), "orig_q": found(ORIGINAL), "unl_q": found(NEVER),
        "unl_fp": {**found(NEVER), "mcq": [Missing("acc", "forget", "the data has no choices")]},
    }  # fmt: skip
    assert "mcq (the data has no choices)" in judged(models).sentence


def test_many_metrics_of_noise_find_nothing() -> None:
    # Under no effect at all, one audit in twenty may raise an alarm in a family; the margins make it rarer still.
    alarms = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        models = {}
        for name in ("orig_fp", "never_fp", "orig_q", "unl_fp", "unl_q"):
            groups = found(ORIGINAL if name.startswith("orig") else NEVER, 40)
            for rows in groups.values():
                for place, row in enumerate(rows):
                    if row.metric.binary and not name.startswith("orig"):
                        rows[place] = replace(row, values=(rng.random(len(row.values)) < 0.12).astype(float))
            groups["qa_gen"] = [row for row in groups["qa_gen"] if row.split != "retain"]
            models[name] = groups
        verdict = judged(models)
        alarms += verdict.state == "SUPPRESSED" or bool({"RECOVERED", "RECOVERED_LATENT"} & set(verdict.effect))
    assert alarms <= 1


def test_a_small_excess_among_all_that_could_show_knowledge_is_luck() -> None:
    """Of 40 answers five more than the never-trained model gives: enough where nothing else was asked."""
    guessed = NEVER | {"contains": 0.25}
    models = {
        "orig_fp": ORIGINAL, "never_fp": NEVER, "orig_q": near(ORIGINAL, 0.01), "unl_fp": guessed, "unl_q": guessed,
    }  # fmt: skip
    asked = {name: {metric: numbers[metric] for metric in ("contains", "retain")} for name, numbers in models.items()}
    states = [judged({name: found(n, 40) for name, n in case.items()}).state for case in (asked, models)]
    assert states == ["SUPPRESSED", "CONSISTENT_WITH_REMOVAL"]


def test_every_primary_metric_is_one_that_its_evaluator_gives() -> None:
    for primary in (*PRIMARIES, TRUTH):
        metrics = {metric.name: metric for metric in EVALUATORS[primary.evaluator].metrics}
        assert {primary.metric, *primary.floors} <= set(metrics), primary
        assert metrics[primary.metric].family == primary.family
        assert metrics[primary.metric].knowledge != 0
