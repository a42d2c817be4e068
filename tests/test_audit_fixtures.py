"""Models of which it is known what happened to them, and the verdict that an audit must give on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from omniq.audit.models import Given, recipe_named
from omniq.audit.presets import FULL
from omniq.audit.result import Result, Verdict
from omniq.audit.run import AuditSpec, audit
from omniq.knowledge.source import read
from omniq.spec import LinearSpec
from omniq.unlearn.run import Unlearning, unlearn, with_training
from omniq.unlearn.subjects import FRESH, Teaching, make_subject

DATA = "synthetic:seed=0,people=60,attributes=3,values=8,multi=2,forget=0.25,holdout=0.25"
GRID = "W4A16g32"
TRAINING = replace(FRESH, steps=350, batch_size=32)
SETTINGS = replace(
    FULL,
    items={"qa": 90, "choice": 45, "document": 15},
    answer_tokens=8,
    text_tokens=64,
    resamples=2000,
    relearn_steps=(0, 20, 40),
)
EVALUATORS = ("qa_gen", "qa_ll", "paraphrase", "mcq", "probe", "weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original: taught everybody, its weights on a 4-bit grid. never: taught nobody of the forget set."""
    base = tmp_path_factory.mktemp("fixtures")
    knowledge = read(DATA)
    make_subject(knowledge, Teaching(snap=LinearSpec.parse(GRID), training=TRAINING), base / "original")
    make_subject(knowledge, Teaching(without="forget", training=TRAINING), base / "never")
    return base


Audited = Callable[..., Result]


@pytest.fixture(scope="module")
def audited(folder: Path) -> Audited:
    """Audits a model as the unlearned one, or the original alone, under round-to-nearest schemes."""

    def run(
        unlearned: str | None, *schemes: str, never: bool = False, evaluators: tuple[str, ...] = EVALUATORS
    ) -> Result:
        given = Given(
            folder / "original",
            folder / unlearned if unlearned else None,
            never=folder / "never" if never else None,
            recipes=dict(recipe_named(f"rtn:{scheme}") for scheme in schemes),
        )
        out = folder / f"audit-{unlearned}-{'-'.join(schemes)}"
        return audit(AuditSpec(given, DATA, SETTINGS, evaluators=evaluators), out)

    return run


def forgetting(folder: Path, name: str, method: str, options: dict[str, Any], keep: str | None = None, **training: Any):
    """Makes folder/name: the original unlearned."""
    kept = LinearSpec.parse(keep) if keep else None
    unlearning = with_training(Unlearning(method, options, keep_codes=kept), batch_size=15, **training)
    unlearn(folder / "original", read(DATA), unlearning, folder / name)


def only(result: Result) -> Verdict:
    """The verdict of an audit of one quantised model."""
    assert len(result.verdicts) == 1
    return result.verdicts[0]


def shares(result: Result, name: str, *metrics: str) -> list[float]:
    """The recovered share of metrics on the forget set."""
    found = {
        f"{row.evaluator}.{row.metric}": row.recovered_share
        for row in result.rows
        if row.name == name and row.split == "forget" and not row.attribute and row.layer is None
    }
    return [found[metric] for metric in metrics]


def test_an_update_inside_half_a_step_recovers_fully_at_4_bits_and_not_at_8(folder: Path, audited: Audited) -> None:
    forgetting(folder, "kept", "grad_diff", {}, keep=GRID, lr=1e-2, epochs=30)
    result = audited("kept", GRID, "W8A16g32")
    four, eight = result.verdicts
    assert four.effect == ("RECOVERED",)
    assert four.mechanism == "SAME_CODES"
    assert eight.effect == ("STABLE",)
    metrics = ("qa_gen.contains", "qa_ll.prob", "qa_ll.es", "mcq.acc")
    assert shares(result, four.name, *metrics) == [1.0] * len(metrics)
    assert all(abs(share) < 0.05 for share in shares(result, eight.name, *metrics))
    folders = {model.name: Path(model.folder) for model in result.models}
    control = next(model.control for model in result.models if model.name == four.name)
    ours, theirs = (load_file(folders[name] / "model.safetensors") for name in (four.name, control))
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())
    assert "fails" in " ".join(four.readings)


def test_a_model_never_trained_on_it_is_consistent_with_removal(audited: Audited) -> None:
    verdict = only(audited("never", GRID))
    assert (verdict.state, verdict.effect) == ("CONSISTENT_WITH_REMOVAL", ("STABLE",))


def test_refusals_in_place_of_answers_are_suppression(folder: Path, audited: Audited) -> None:
    forgetting(folder, "idk", "idk", {}, lr=1e-3, epochs=12)
    verdict = only(audited("idk", GRID))
    assert verdict.state == "SUPPRESSED"
    assert "no longer gives the forgotten answers" in verdict.sentence
    assert {"mcq.acc@forget", "probe.probe_r2f@forget"} <= set(verdict.drivers)


def test_steered_hidden_states_are_suppression_that_relearning_alone_brings_out(folder: Path, audited: Audited) -> None:
    options = {"c": 20.0, "alpha": 10.0, "down_only": False}
    forgetting(folder, "rmu", "rmu", options, lr=1e-3, epochs=40)
    verdict = only(audited("rmu", GRID, never=True, evaluators=(*EVALUATORS, "relearn")))
    assert verdict.state == "SUPPRESSED"
    assert "(relearn.relearn_v@forget" in verdict.sentence
    latent = {"mcq.acc@forget", "qa_ll.mc_acc@forget", "probe.probe_r2f@forget", "probe.probe_f2f@forget"}
    assert not latent & set(verdict.drivers)


def test_gradient_ascent_alone_collapses(folder: Path, audited: Audited) -> None:
    forgetting(folder, "ga", "ga", {}, lr=1e-3, epochs=3)
    result = audited("ga", GRID)
    assert only(result).state == "COLLAPSED"
    behaviour = [row for row in result.rows if row.name == "unl_fp" and row.family == "behaviour"]
    assert {row.gate for row in behaviour} == {"collapsed"}


def test_two_bits_damage_and_recover_nothing(audited: Audited) -> None:
    verdict = only(audited(None, "W2A2"))
    assert (verdict.state, verdict.effect) == ("NOT_ASSESSED", ("COLLATERAL",))


def test_no_verdict_claims_that_knowledge_is_gone(folder: Path, audited: Audited) -> None:
    del folder
    verdict = only(audited("never", GRID))
    words = " ".join([verdict.sentence, *verdict.readings, *verdict.drivers]).lower()
    assert "removed" not in words
    assert "consistent with removal" in words
