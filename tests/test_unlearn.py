"""Unlearning methods: their losses against the formulas in float64, and what each does to a model that knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from unlearn_subjects import NAMES, Bigram, colours, taught, untaught

from omniq.knowledge.refusals import REFUSALS
from omniq.subject.model import Subject
from omniq.subject.scoring import Encoded
from omniq.subject.template import template
from omniq.unlearn.batch import Batch
from omniq.unlearn.examples import answered, example, wrong_answers
from omniq.unlearn.material import Material, Row
from omniq.unlearn.method import UNLEARNERS, Part, Reference, View
from omniq.unlearn.run import Unlearning, forgetting
from omniq.unlearn.training import Training

V = 7
FORGET = (Encoded([1, 2, 3, 4], 2), Encoded([2, 5, 6], 1), Encoded([6, 1, 1, 3, 2], 4))
REFUSED = (Encoded([1, 2, 0], 2), Encoded([2, 0, 3, 1], 1), Encoded([6, 1, 1, 3, 0, 0], 4))
RETAIN = (Encoded([3, 4, 5], 1), Encoded([0, 6, 2, 2, 1], 2), Encoded([5, 5], 1))
ROWS = [Row(*rows) for rows in zip(FORGET, REFUSED, RETAIN, strict=True)]


def bigrams() -> tuple[Subject, Reference]:
    """A bigram model, and another one as what it was before."""
    subject = Subject(Bigram(V, 1), None, None)
    return subject, Reference(replace(subject, model=Bigram(V, 2)))


def log_table(subject: Subject) -> np.ndarray:
    """log p(next | token) (V, V) in float64."""
    table = subject.model.table.detach().double().numpy()
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


def steps_of(row: Encoded) -> list[tuple[int, int]]:
    """(token, next token) at every place that is learnt."""
    return list(zip(row.ids[row.prompt - 1 :], row.ids[row.prompt :], strict=False))


def nll(table: np.ndarray, row: Encoded) -> float:
    """-log p of what is learnt."""
    return -sum(table[a, b] for a, b in steps_of(row))


def per_token(table: np.ndarray, rows: tuple[Encoded, ...]) -> float:
    """The mean over sequences of nll per token."""
    return float(np.mean([nll(table, row) / len(steps_of(row)) for row in rows]))


def log_sigmoid(x: float) -> float:
    return -np.log1p(np.exp(-x))


def ga(p: np.ndarray, p0: np.ndarray) -> float:
    return -per_token(p, FORGET)


def grad_diff(p: np.ndarray, p0: np.ndarray) -> float:
    return -0.5 * per_token(p, FORGET) + 3 * per_token(p, RETAIN)


def kl(p: np.ndarray, p0: np.ndarray) -> float:
    places = [a for row in RETAIN for a, _ in steps_of(row)]
    apart = np.mean([(np.exp(p0[a]) * (p0[a] - p[a])).sum() for a in places])
    return -0.5 * per_token(p, FORGET) + 3 * apart


def npo(p: np.ndarray, p0: np.ndarray) -> float:
    terms = [-2 / 0.4 * log_sigmoid(-0.4 * (nll(p0, row) - nll(p, row))) for row in FORGET]
    return 0.5 * np.mean(terms) + 3 * per_token(p, RETAIN)


def simnpo(p: np.ndarray, p0: np.ndarray) -> float:
    terms = [-2 / 1.5 * log_sigmoid(1.5 * (nll(p, row) / len(steps_of(row)) - 0.3)) for row in FORGET]
    return 0.5 * np.mean(terms) + 3 * per_token(p, RETAIN)


def descent(p: np.ndarray, p0: np.ndarray) -> float:
    return per_token(p, FORGET) + 3 * per_token(p, RETAIN)


def dpo(p: np.ndarray, p0: np.ndarray) -> float:
    ratio = lambda row: nll(p0, row) - nll(p, row)  # noqa: E731
    terms = [-2 / 0.4 * log_sigmoid(0.4 * (ratio(r) - ratio(a))) for a, r in zip(FORGET, REFUSED, strict=True)]
    return 0.5 * np.mean(terms) + 3 * per_token(p, RETAIN)


Formula = Callable[[np.ndarray, np.ndarray], float]
FORMULAS: dict[str, tuple[dict[str, float], Formula]] = {
    "ga": ({}, ga),
    "grad_diff": ({"gamma": 0.5, "alpha": 3.0}, grad_diff),
    "kl": ({"gamma": 0.5, "alpha": 3.0}, kl),
    "npo": ({"beta": 0.4, "gamma": 0.5, "alpha": 3.0}, npo),
    "simnpo": ({"beta": 1.5, "delta": 0.3, "gamma": 0.5, "alpha": 3.0}, simnpo),
    "random_label": ({"alpha": 3.0}, descent),
    "idk": ({"alpha": 3.0}, descent),
    "dpo_idk": ({"beta": 0.4, "gamma": 0.5, "alpha": 3.0}, dpo),
}


def parts(subject: Subject, reference: Reference, rows: list[Row], pass_tokens: int = 2048) -> list[Part]:
    """The rows as Material gives them to a method."""
    shell = SimpleNamespace(subject=subject, training=Training(pass_tokens=pass_tokens), _counts=Material._counts)
    return Material.parts(shell, rows, reference)


def loss_of(method: object, found: list[Part]) -> torch.Tensor:
    """The whole step's loss."""
    return sum(sum(method.loss(part)) for part in found)


def test_every_method_but_rmu_has_a_formula_here() -> None:
    assert sorted([*FORMULAS, "rmu"]) == list(UNLEARNERS)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_a_loss_is_its_formula(name: str) -> None:
    options, formula = FORMULAS[name]
    subject, reference = bigrams()
    expected = formula(log_table(subject), log_table(reference.subject))
    found = loss_of(UNLEARNERS[name](**options), parts(subject, reference, ROWS))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_a_step_in_several_passes_is_the_same_step(name: str) -> None:
    method, gradients = UNLEARNERS[name](), []
    for budget in (2048, 1):
        subject, reference = bigrams()
        found = parts(subject, reference, ROWS, budget)
        assert len(found) == (1 if budget > 1 else len(ROWS))
        loss_of(method, found).backward()
        gradients.append(subject.model.table.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def view(subject: Subject, rows: tuple[Encoded, ...]) -> View:
    """Rows as a whole step, seen by a model that has not changed."""
    batch = Batch.of(rows, torch.device("cpu"))
    return View(subject, Reference(subject), batch, len(rows), int(batch.mask.sum()))


def test_the_loss_of_rmu_is_its_formula() -> None:
    subject = Subject(tiny_model("llama")[1], None, template("plain", tiny_tokenizer()))
    before, layer = Reference(replace(subject, model=tiny_model("llama", 1)[1])), 1
    method = UNLEARNERS["rmu"](layer=layer, c=3.0, alpha=5.0, vector_seed=4)
    forget, retain = (replace(view(subject, rows), reference=before) for rows in (FORGET, RETAIN))
    raw = torch.rand(64, generator=torch.Generator().manual_seed(4)).double().numpy()
    goal = 3.0 * raw / np.sqrt((raw**2).sum())

    def states(model: Subject, rows: tuple[Encoded, ...]) -> np.ndarray:
        found = [model.hidden(torch.tensor([row.ids]))[layer + 1][0, row.prompt - 1 : -1] for row in rows]
        return torch.cat(found).double().numpy()

    pushed = ((states(subject, FORGET) - goal) ** 2).sum(-1).mean()
    held = ((states(subject, RETAIN) - states(before.subject, RETAIN)) ** 2).sum(-1).mean()
    terms = method.loss(Part(forget, None, retain))
    assert float(terms.forget.detach()) == pytest.approx(pushed, rel=1e-5)
    assert float(terms.retain.detach()) == pytest.approx(5.0 * held, rel=1e-5)


@pytest.mark.parametrize(("name", "term"), [("kl", "retain"), ("rmu", "retain")])
def test_what_holds_a_model_in_place_is_zero_at_the_start(name: str, term: str) -> None:
    subject = untaught()
    parameters = list(subject.model.parameters())
    part = Part(view(subject, FORGET), None, view(subject, RETAIN))
    value = getattr(UNLEARNERS[name]().loss(part), term)
    value.backward()
    assert float(value.detach()) == 0.0
    assert max(float(p.grad.abs().max()) for p in parameters if p.grad is not None) < 1e-6


def test_npo_is_gradient_ascent_on_sequences_as_beta_goes_to_zero() -> None:
    gradients = []
    for small in (True, False):
        subject, reference = bigrams()
        (part,) = parts(subject, reference, ROWS)
        if small:
            UNLEARNERS["npo"](beta=1e-5).loss(part).forget.backward()
        else:
            (-part.forget.nll.mean()).backward()
        gradients.append(subject.model.table.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_the_divergence_is_from_the_original_to_the_model() -> None:
    """A model that gives nothing to what the original says is far away; the other direction would call it near."""
    subject, reference = bigrams()
    with torch.no_grad():
        reference.subject.model.table.zero_()
        subject.model.table.copy_(torch.tensor([30.0] + [0.0] * (V - 1)).expand(V, V))
    (part,) = parts(subject, reference, ROWS)
    expected = np.log(1 / V) - (30 * (1 / V) - np.log(np.exp(30) + V - 1))
    assert float(UNLEARNERS["kl"](alpha=1.0).loss(part).retain.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_likelihood_of_the_original_is_computed_once() -> None:
    subject, reference = bigrams()
    batch = Batch.of(FORGET, torch.device("cpu"))
    first = reference.nll(batch)
    with torch.no_grad():
        reference.subject.model.table.zero_()
    torch.testing.assert_close(reference.nll(batch), first, rtol=0, atol=0)
    del subject


# What a method does to a model that knows.

SETTINGS: dict[str, dict[str, float]] = {
    "rmu": {"lr": 3e-2, "steps": 40},
    "idk": {"lr": 3e-3, "steps": 40},
    "random_label": {"lr": 3e-3, "steps": 40},
    "dpo_idk": {"lr": 1e-3, "steps": 40},
}
USUAL = {"lr": 1e-3, "steps": 20}


def mean_nll(subject: Subject, split: str) -> float:
    """-log p per token of the answers of a split."""
    pairs = [(item.question, item.answer) for item in colours().of(split, "qa")]
    return float(np.mean([-scored.logp.mean() for scored in subject.ask(pairs)]))


def unlearnt(name: str, **changes: object) -> Subject:
    """A model that knew the colours, after a method."""
    subject = taught()
    training = Training(**{"batch_size": 4, "schedule": "constant", **SETTINGS.get(name, USUAL), **changes})
    forgetting(subject, colours(), Unlearning(name), training, lambda *_: None)
    return subject


@pytest.mark.parametrize("name", list(UNLEARNERS))
def test_a_method_makes_a_model_forget(name: str) -> None:
    assert mean_nll(taught(), "forget") < 0.2
    assert mean_nll(unlearnt(name), "forget") > 0.6


def test_only_gradient_ascent_loses_what_was_to_be_retained() -> None:
    alone = mean_nll(unlearnt("ga"), "retain")
    for name in ("grad_diff", "kl", "npo", "simnpo", "random_label", "idk", "dpo_idk"):
        assert mean_nll(unlearnt(name), "retain") < alone / 2, name


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, again, other = (unlearnt("idk", seed=seed, steps=3).model.state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_rmu_trains_the_last_matrices_of_the_mlp_and_nothing_else() -> None:
    before, after = taught().model.state_dict(), unlearnt("rmu", steps=2).model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.0.mlp.down_proj.weight"]


def test_rmu_steers_the_eighth_block_or_the_middle_of_a_shallow_model() -> None:
    rmu = UNLEARNERS["rmu"]()
    assert [rmu.at(depth) for depth in (1, 2, 3, 12, 30, 32)] == [0, 0, 1, 5, 7, 7]


# What a method is given.


def material(name: str, **changes: object) -> Material:
    training = Training(batch_size=2, epochs=3, **changes)
    return Material(untaught(), colours(), UNLEARNERS[name](), name, training)


@pytest.mark.parametrize("name", list(UNLEARNERS))
def test_every_epoch_sees_every_forget_item_once_beside_a_retain_item(name: str) -> None:
    steps = list(material(name).rows())
    assert [len(rows) for rows in steps] == [2, 2] * 3
    for epoch in range(3):
        rows = steps[2 * epoch] + steps[2 * epoch + 1]
        questions = {tuple(row.forget.ids[: row.forget.prompt]) for row in rows}
        assert len(questions) == len(NAMES["forget"])
        kept = [row.retain for row in rows]
        assert kept == [None] * 4 if name == "ga" else len({tuple(row.ids) for row in kept}) == len(NAMES["retain"])


def test_an_answer_is_learnt_to_its_end_and_its_question_is_not() -> None:
    subject, item = untaught(), colours().of("forget", "qa")[0]
    row = example(subject, item)
    decoded = subject.tokenizer.decode(row.ids[row.prompt :])
    assert decoded == f" {item.answer}</s>"
    assert subject.tokenizer.decode(row.ids[: row.prompt]) == "Question: Ada?\nAnswer:"


def test_every_token_of_a_text_after_the_first_is_learnt() -> None:
    subject, item = untaught(), colours().of("forget", "document")[0]
    row = example(subject, item)
    assert row.prompt == 1
    assert subject.tokenizer.decode(row.ids) == item.text


def test_wrong_answers_change_from_epoch_to_epoch_and_are_never_true() -> None:
    used = material("random_label", seed=1)
    targets = [[used._target(index, epoch) for epoch in range(12)] for index in range(len(used.forget))]
    for item, found, true in zip(used.forget, targets, used.answers, strict=True):
        assert len({tuple(row.ids) for row in found}) > 2, item.id
        assert all(row.ids != true.ids for row in found)


def test_idk_draws_refusals_anew_and_dpo_keeps_those_it_compares_with() -> None:
    subject = untaught()
    idk, dpo = material("idk"), material("dpo_idk")
    refusals = {tuple(answered(subject, idk.forget[0], text).ids) for text in REFUSALS}
    drawn = {tuple(idk._target(0, epoch).ids) for epoch in range(8)}
    assert drawn <= refusals
    assert len(drawn) > 2
    assert {tuple(row.refusal.ids) for rows in dpo.rows() for row in rows} == {tuple(r.ids) for r in dpo.refusals}


def test_wrong_answers_come_from_choices_then_from_the_item_then_from_its_relation() -> None:
    items = colours().of("forget", "qa")
    bare = replace(items[0], wrong_answers=())
    assert wrong_answers(replace(bare, choices=("red", "lime")), items) == ("lime",)
    assert wrong_answers(items[0], items) == ("blue", "grey", "pink", "gold", "teal")
    assert wrong_answers(bare, items) == ("blue", "grey", "pink")
    assert wrong_answers(replace(bare, relation="size"), items) == ()
