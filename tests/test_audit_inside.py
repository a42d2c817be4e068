"""lens, patch and privacy: against the model's own numbers, against values by hand, and where nothing can be seen."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit_subjects import make_context, people, reasons, tiny_subject
from torch import nn

from omniq.audit.base import EVALUATORS, Found, Measurement
from omniq.audit.basis import foreign
from omniq.audit.evaluators.lens import others
from omniq.audit.evaluators.patch import drops, patched
from omniq.audit.metrics.depth import depth_scores
from omniq.audit.metrics.membership import SCORES, loss, lowest_mean, min_k, min_k_plus_plus, privleak, zlib_ratio
from omniq.audit.readout import readout
from omniq.audit.statistics import COMBINE
from omniq.errors import UnsupportedError
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject
from omniq.subject.scoring import Scored

WITH_HEAD = ("llama", "llama-tied", "gemma2", "gemma3_text", "qwen3", "gpt_neox", "opt", "phi", "falcon", "qwen3_moe")
KNOWLEDGE = people(6)


def asked(subject: Subject, item: Item) -> tuple[str, str]:
    return subject.template.prompt(item.question), subject.template.answer(item.answer)


def observed(evaluator: str, subject: Subject, knowledge: Knowledge = KNOWLEDGE, **more: Any) -> Found:
    return EVALUATORS[evaluator].observe(subject, make_context(knowledge, **more))


def row(found: Found, metric: str, split: str = "forget", layer: int | None = None) -> Measurement:
    rows = [one for one in found if isinstance(one, Measurement)]
    return next(one for one in rows if (one.metric.name, one.split, one.layer) == (metric, split, layer))


def taught(subject: Subject, items: tuple[Item, ...], steps: int = 60) -> Subject:
    """A copy that has learned the answers to these questions."""
    subject = Subject(copy.deepcopy(subject.model), subject.tokenizer, subject.template, "taught")
    model = subject.model.requires_grad_(True)
    rows = [subject.encode(*asked(subject, item)) for item in items]
    width = max(len(one.ids) for one in rows)
    ids = torch.tensor([one.ids + [0] * (width - len(one.ids)) for one in rows])
    labels = torch.full_like(ids, -100)
    for index, one in enumerate(rows):
        labels[index, one.prompt : len(one.ids)] = ids[index, one.prompt : len(one.ids)]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    return subject


@pytest.fixture(scope="module")
def never() -> Subject:
    return tiny_subject()


@pytest.fixture(scope="module")
def original(never: Subject) -> Subject:
    return taught(never, (*KNOWLEDGE.of("forget", "qa"), *KNOWLEDGE.of("retain", "qa")))


@pytest.mark.parametrize("name", WITH_HEAD)
def test_the_lens_at_the_last_layer_is_the_models_own_log_probability_and_rank(name: str) -> None:
    subject = tiny_subject(name)
    found = observed("lens", subject)
    items = KNOWLEDGE.of("forget", "qa")
    own = subject.score([asked(subject, item) for item in items])
    last = row(found, "lens_logp", layer=2)
    assert last.items == tuple(item.id for item in items)
    assert last.values == pytest.approx([one.logp[0] for one in own], abs=1e-4)
    assert row(found, "lens_rank", layer=2).values == pytest.approx(np.log2([1 + one.rank[0] for one in own]))
    assert np.abs(row(found, "lens_logp", layer=1).values - last.values).max() > 0.05


def test_a_capped_models_lens_is_capped() -> None:
    subject = tiny_subject("gemma2", final_logit_softcapping=2.0)
    read = readout(subject, "the quick brown fox")
    assert read.cap == 2.0
    assert read(100 * torch.randn(3, 64)).abs().max() <= 2.0


def test_a_model_whose_logits_cannot_be_reproduced_is_missing_with_the_reason() -> None:
    class Shifted(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.head(torch.roll(states, 1, -1) * 3)

    subject = tiny_subject()
    subject.model.model.norm = nn.Sequential(subject.model.model.norm, Shifted(nn.Linear(64, 64)))
    with pytest.raises(UnsupportedError, match="no final norm and output head"):
        readout(subject, "the quick brown fox")
    found = observed("lens", subject)
    assert set(reasons(found)) == {("lens_logp", ""), ("lens_rank", ""), ("lens_best", "")}
    assert not any(isinstance(one, Measurement) for one in found)


def test_lens_best_is_the_highest_of_the_layers_in_which_the_original_prefers_right_answers(original: Subject) -> None:
    found = observed("lens", original)
    best = row(found, "lens_best")
    layers = [row(found, "lens_logp", layer=layer) for layer in (1, 2)]
    knowing = [one for one in layers if f" {one.layer}" in best.note.replace(",", "")]
    assert knowing
    assert (best.values == np.max([one.values for one in knowing], 0)).all()
    assert best.values.mean() > best.chance + 1
    assert row(found, "lens_best", "holdout").values.mean() < best.values.mean() - 1


def test_the_lens_of_a_model_is_judged_by_what_the_original_knows(original: Subject, never: Subject) -> None:
    found = observed("lens", never, name="unl_fp", load=lambda name: {"orig_fp": original}[name])
    assert row(found, "lens_best").gate == "ok"
    assert row(found, "lens_best").values.mean() == pytest.approx(row(found, "lens_best").chance, abs=1)
    ignorant = observed("lens", never)
    assert {one.gate for one in ignorant if isinstance(one, Measurement)} == {"no_capability"}
    assert "no layer of the original" in reasons(ignorant)["lens_best", "forget"]


def test_the_wrong_answer_is_another_one_to_the_same_kind_of_question() -> None:
    items = [
        Item("a", "forget", relation="city", answer="Oslo"),
        Item("b", "forget", relation="trade", answer="baker"),
        Item("c", "forget", relation="city", answer="Oslo"),
        Item("d", "forget", relation="city", answer="Lima"),
    ]
    assert others(items) == ["Lima", None, "Lima", "Oslo"]


def test_the_depth_score_weighs_layers_by_the_gap_and_leaves_out_those_without() -> None:
    gap = np.array([[1.0, 3.0, 0.05], [2.0, 0.0, 0.0], [0.01, 0.02, -1.0]])
    drop = np.array([[0.5, 6.0, 9.0], [-1.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    assert depth_scores(gap, drop) == pytest.approx([(0.5 + 3.0) / 4.0, 0.0, math.nan], nan_ok=True)


def context_of(name: str, models: dict[str, Subject]) -> dict[str, Any]:
    return {"name": name, "folders": {key: Path(key) for key in models}, "load": models.__getitem__}


def test_uds_is_0_for_the_original_and_1_for_the_never_trained_model(original: Subject, never: Subject) -> None:
    models = {"orig_fp": original, "never_fp": never}
    same = observed("patch", original, **context_of("orig_fp", models))
    assert row(same, "uds").values == pytest.approx(0.0, abs=1e-6)
    assert len(row(same, "uds").items) + row(same, "uds").excluded == 12
    none = observed("patch", never, **context_of("never_fp", models))
    assert row(none, "uds").values == pytest.approx(1.0)
    assert row(none, "patch_drop", layer=2).values.mean() > 1


def test_uds_lies_between_for_a_model_half_way(original: Subject, never: Subject) -> None:
    half = Subject(copy.deepcopy(original.model), original.tokenizer, original.template, "half")
    with torch.no_grad():
        for own, other in zip(half.model.parameters(), never.model.parameters(), strict=True):
            own.lerp_(other, 0.5)
    models = {"orig_fp": original, "never_fp": never, "unl_fp": half}
    found = observed("patch", half, **context_of("unl_fp", models))
    assert 0.05 < row(found, "uds").values.mean() < 0.95


def test_states_of_the_last_layer_make_the_original_say_what_the_source_does(original: Subject, never: Subject) -> None:
    """Past the last block there are only the norm and the head, so that the patched model can be worked out by hand."""
    item = KNOWLEDGE.of("forget", "qa")[0]
    pair = original.encode(*asked(original, item))
    ids = torch.tensor([pair.ids])
    log_p = readout(original, "the fox")(never.hidden(ids)[-1][0, pair.prompt - 1 : -1]).log_softmax(-1)
    patched_in = log_p.gather(1, ids[0, pair.prompt :, None]).mean().item()
    own = original.score([asked(original, item)])[0].logp.mean()
    assert drops(original, never, [item], (2,)) == pytest.approx(np.array([[own - patched_in]]), abs=1e-5)


def test_a_patch_changes_marked_places_only_and_ends(original: Subject) -> None:
    ids = torch.tensor([original.start("the quick brown fox jumps")])
    before = original.model(input_ids=ids).logits
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 3] = True
    with patched(original.blocks[1], torch.zeros(1, ids.shape[1], 64), mask):
        during = original.model(input_ids=ids).logits
    changed = (during != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [3]
    assert (original.model(input_ids=ids).logits == before).all()


def test_patching_is_missing_without_a_never_trained_model(original: Subject) -> None:
    found = observed("patch", original, **context_of("orig_fp", {"orig_fp": original}))
    assert "never trained on the forget set; give one with --never" in reasons(found)["uds", "forget"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: tiny_subject(num_hidden_layers=3), "has 3 blocks of width 64, taught 2 of 64"),
        (lambda: tiny_subject(hidden_size=32, head_dim=8), "has 2 blocks of width 32, taught 2 of 64"),
        (lambda: tiny_subject(seed=9), "along other directions"),
    ],
)
def test_models_whose_states_cannot_be_compared_are_missing_with_the_reason(
    original: Subject, other: Callable[[], Subject], words: str
) -> None:
    models = {"orig_fp": original, "never_fp": other()}
    assert words in foreign(models["never_fp"], original, ["the quick brown fox"])
    found = observed("patch", original, **context_of("orig_fp", models))
    assert words in reasons(found)["uds", "forget"]


SCORED = Scored(
    ids=np.arange(5),
    logp=np.array([-1.0, -4.0, -2.0, -3.0, -5.0]),
    rank=np.zeros(5, int),
    mean=np.array([-2.0, -3.0, -2.0, -1.0, -4.0]),
    deviation=np.array([1.0, 0.5, 2.0, 4.0, 0.0]),
)


def test_scores_of_membership_are_those_worked_out_by_hand() -> None:
    text = "a text " * 9
    assert loss(text, SCORED) == 3.0
    assert zlib_ratio(text, SCORED) == pytest.approx(3.0 / len(zlib.compress(text.encode())))
    assert min_k(text, SCORED, 0.2) == 5.0
    assert min_k(text, SCORED, 0.4) == 4.5
    # z: 1, -2, 0, -0.5, and -1 over the smallest deviation of 0.001
    assert min_k_plus_plus(text, SCORED, 0.2) == pytest.approx(1000.0)
    assert min_k_plus_plus(text, SCORED, 0.4) == pytest.approx((1000.0 + 2.0) / 2)
    assert lowest_mean(np.array([3.0, 1.0]), 0.2) == 1.0


def test_min_k_plus_plus_standardises_by_the_models_own_distribution() -> None:
    """Three tokens with probabilities 1/2, 1/4, 1/4: mean -1.5 log 2, variance log(2)^2 / 4."""
    p = torch.tensor([0.5, 0.25, 0.25])
    subject = tiny_subject(vocab_size=320)
    logits = torch.full((320,), -torch.inf)
    logits[[5, 6, 7]] = p.log()

    class Fixed(nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return logits.expand(*states.shape[:-1], 320)

    subject.model.lm_head = Fixed()
    text = subject.tokenizer.decode([5, 5, 6])
    assert subject.start(text)[-3:] == [5, 5, 6]
    (scored,) = subject.score([("", text)], moments=True)
    z = (scored.logp - scored.mean) / scored.deviation
    assert z[-2:] == pytest.approx([(-1 + 1.5) / 0.5, (-2 + 1.5) / 0.5], abs=1e-4)
    assert min_k_plus_plus(text, scored, 0.2) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("auc", "reference", "expected"),
    [(1.0, 0.5, -100.0), (0.5, 0.5, 0.0), (0.0, 0.5, 100.0), (1.0, 0.5228, -100.0), (0.75, 0.6, -37.5)],
)
def test_privleak_is_minus_100_for_a_member_and_positive_for_the_over_unlearned(
    auc: float, reference: float, expected: float
) -> None:
    assert privleak(auc, reference) == pytest.approx(expected)


def test_privleak_agrees_with_muse_on_its_own_scale() -> None:
    """MUSE's AUC ranks holdout texts by how likely a member they look, which is 1 less ours."""
    muse, retrained = 0.30, 0.4772
    assert privleak(1 - muse, 1 - retrained) == pytest.approx(100 * (muse - retrained) / retrained)


def test_privleak_does_not_divide_by_almost_nothing() -> None:
    assert privleak(0.5, 0.97) is None


def pairs(values: np.ndarray, reference: np.ndarray) -> float:
    """AUC by comparing every reference with every value."""
    return float(np.mean([(r > v) + 0.5 * (r == v) for v in values for r in reference]))


def test_auc_of_forgotten_texts_is_high_where_the_model_was_trained_on_them(never: Subject) -> None:
    documents = tuple(
        Item(f"{split}{i}", split, "document", text=f"{split} person {i} reads text {i * 7} of box {i * 3} jars")
        for split in ("forget", "retain", "holdout")
        for i in range(6)
    )
    knowledge = Knowledge("texts", documents)
    trained = taught(
        never, tuple(Item(i.id, "forget", question=" ", answer=i.text) for i in knowledge.of("forget")), steps=40
    )
    trained = Subject(trained.model, trained.tokenizer, trained.template, "trained")
    found = observed("privacy", trained, knowledge)
    for name in SCORES:
        one = row(found, name)
        assert (len(one.values), len(one.reference), one.chance) == (6, 6, 0.5)
        assert COMBINE["auc"].value(one.values, one.reference) == pytest.approx(pairs(one.values, one.reference))
    own = row(found, "mia_loss")
    assert pairs(own.values, own.reference) > 0.9
    assert (
        pairs(*(getattr(row(observed("privacy", never, knowledge), "mia_loss"), n) for n in ("values", "reference")))
        < 0.9
    )
    leak = row(found, "privleak")
    mink = row(found, "mia_mink40")
    assert leak.values == pytest.approx([100 * (0.5 - pairs(mink.values, mink.reference)) / 0.5])
    assert leak.metric.combine == "single"
    assert "no never-trained model" in leak.note


def test_auc_agrees_with_the_mann_whitney_statistic() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    values, reference = rng.integers(0, 9, 30).astype(float), rng.integers(3, 12, 20).astype(float)
    expected = stats.mannwhitneyu(reference, values).statistic / (30 * 20)
    assert COMBINE["auc"].value(values, reference) == pytest.approx(expected)


def test_a_value_is_the_score_of_the_text_as_the_model_reads_it(never: Subject) -> None:
    found = observed("privacy", never, settings={"text_tokens": 12})
    items = KNOWLEDGE.of("forget", "document")
    for item, value in zip(items, row(found, "mia_loss").values, strict=True):
        ids = torch.tensor([never.start(item.text)[:12]])
        with torch.no_grad():
            assert value == pytest.approx(never.model(input_ids=ids, labels=ids).loss.item(), abs=2e-5)


def test_privleak_is_relative_to_the_never_trained_model(original: Subject, never: Subject) -> None:
    models = {"orig_fp": original, "never_fp": never}
    own = observed("privacy", never, **context_of("never_fp", models))
    assert row(own, "privleak").values == pytest.approx([0.0])
    asked_for = observed("privacy", original, **context_of("orig_fp", models))
    mine, theirs = (row(found, "mia_mink40") for found in (asked_for, own))
    auc, reference = (pairs(one.values, one.reference) for one in (mine, theirs))
    assert row(asked_for, "privleak").values == pytest.approx([privleak(auc, reference)])


def test_questions_with_answers_stand_in_where_a_split_has_no_documents(never: Subject) -> None:
    items = tuple(item for item in KNOWLEDGE.items if item.form != "document" or item.split != "holdout")
    found = observed("privacy", never, Knowledge("mixed", items))
    assert set(row(found, "mia_loss").items) == {item.id for item in KNOWLEDGE.of("forget", "qa")}
    assert "questions with answers" in row(found, "mia_loss").note


def test_membership_without_texts_to_compare_with_is_missing(never: Subject) -> None:
    found = observed("privacy", never, people(4, ("forget", "retain")))
    assert "no holdout texts" in reasons(found)["mia_loss", ""]
    found = observed("privacy", never, people(4, ("retain", "holdout")))
    assert row(found, "mia_loss", "retain").values.shape == (4,)
    assert "no forget texts" in reasons(found)["privleak", "forget"]
