"""probe: ridge classifiers against least squares, codes that are there and codes that are not, and what is asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from audit_subjects import PLAIN, make_context, reasons
from tiny import tiny_tokenizer
from torch import Tensor, nn

from omniq.audit.base import EVALUATORS, Context, Found, Measurement
from omniq.audit.metrics.labels import classes_of
from omniq.audit.metrics.layers import spread
from omniq.audit.metrics.mdl import CHOICES, block_ends, code_lengths, compressions
from omniq.audit.metrics.readings import Labelled, dealt, message, readings, retained, sent, transferred
from omniq.audit.metrics.ridge import PENALTIES, chosen_penalty, cross_validated, folds, scores, standardised
from omniq.audit.probe_tasks import Study, at_name, at_question, features, in_document, mentions
from omniq.audit.statistics import COMBINE
from omniq.errors import DataError
from omniq.knowledge.items import Item, Knowledge

WIDTH, CLASSES = 48, 4


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def least_squares(train: np.ndarray, test: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression with a free intercept, as ordinary least squares on rows that stand for the penalty."""
    n, width = train.shape
    rows = np.block([[train, np.ones((n, 1))], [math.sqrt(penalty) * np.eye(width), np.zeros((width, 1))]])
    wanted = np.concatenate([targets, np.zeros((width, targets.shape[1]))])
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return np.hstack([test, np.ones((len(test), 1))]) @ weights


def groups(train: int = 60, forget: int = 24, holdout: int = 24, seed: int = 1) -> Labelled:
    """One example of each of so many people, labels drawn evenly."""
    count = train + forget + holdout
    splits = np.repeat(["retain", "forget", "holdout"], [train, forget, holdout])
    labels = np.random.default_rng(seed).integers(0, CLASSES, count)
    return Labelled(labels, np.array([f"p{i}" for i in range(count)]), splits, CLASSES)


def coded(own: Labelled, splits: Sequence[str] = ("retain", "forget"), seed: int = 2) -> np.ndarray:
    """Noise (N, D), to which people of the given splits have a direction of their label added."""
    there = np.isin(own.splits, splits)
    return numbers(len(own.labels), WIDTH, seed=seed) + 6 * np.eye(CLASSES, WIDTH)[own.labels] * there[:, None]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_scores_are_those_of_penalised_least_squares_with_a_free_intercept(penalty: float) -> None:
    train, test = numbers(30, 7) + 3, numbers(9, 7, seed=1) + 3
    labels = np.arange(30) % 3
    found = scores(train @ train.T, test @ train.T, labels, 3, penalty)
    assert found == pytest.approx(least_squares(train, test, np.eye(3)[labels], penalty), abs=1e-10)
    assert found.sum(1) == pytest.approx(1.0)


def compression(messages: list[tuple[np.ndarray, int]]) -> float:
    return COMBINE["harmonic"].value(np.concatenate(compressions(messages)), None)


def test_the_penalty_is_the_one_that_does_best_on_people_left_out() -> None:
    own = groups()
    x, labels = coded(own)[:60] * 0.05, own.labels[:60]
    fold = own.fold(np.arange(60))
    by_hand = {}
    for penalty in PENALTIES:
        found = np.zeros(60, dtype=bool)
        for number in range(5):
            train, test = fold != number, fold == number
            asked = least_squares(x[train], x[test], np.eye(CLASSES)[labels[train]], penalty)
            found[test] = asked.argmax(1) == labels[test]
        assert (found == cross_validated(x @ x.T, labels, CLASSES, fold, penalty)).all()
        by_hand[penalty] = found.sum()
    penalty, right = chosen_penalty(x @ x.T, labels, CLASSES, fold)
    assert by_hand[penalty] == max(by_hand.values()) == right.sum()


def test_folds_are_even_and_never_divide_a_person() -> None:
    people = np.array([f"p{i % 23}" for i in range(69)])
    fold = folds(people, seed=3)
    assert all(len(set(fold[people == person])) == 1 for person in set(people))
    sizes = [len(set(people[fold == number])) for number in range(5)]
    assert sorted(sizes) == [4, 4, 5, 5, 5]
    assert (fold == folds(people, seed=3)).all()
    assert (fold != folds(people, seed=4)).any()


def test_standardising_uses_the_training_examples_and_drops_what_is_constant_there() -> None:
    train, test = np.float16([[1, 2, 7], [3, 2, 9]]), np.float16([[5, 40, 8]])
    assert standardised(test, train) == pytest.approx(np.array([[3.0, 0.0, 0.0]]))


def test_a_planted_code_is_read_where_it_is_and_nowhere_else() -> None:
    own = groups()
    found = readings(coded(own), own)
    assert found["r2f"].mean() > 0.95
    assert found["f2f"].mean() > 0.95
    assert found["holdout"].mean() < 0.55
    assert found["control"].mean() < 0.55
    assert retained(coded(own), own).mean() > 0.95


def test_a_code_that_was_changed_for_forgotten_people_is_found_by_learning_from_half_of_them() -> None:
    own = groups(train=40, forget=80, holdout=8)
    x = coded(own, ("retain",))
    there = own.splits == "forget"
    x[there] += 9 * np.eye(CLASSES, WIDTH, k=20)[own.labels[there]]
    found = readings(x, own)
    assert found["r2f"].mean() < 0.55
    assert found["f2f"].mean() > 0.9


def test_on_labels_that_mean_nothing_a_probe_is_at_the_majority() -> None:
    own = groups(train=120, forget=200, holdout=200)
    labels = np.where(np.random.default_rng(5).random(520) < 0.7, 0, own.labels)
    own = Labelled(labels, own.people, own.splits, CLASSES)
    found = readings(numbers(520, WIDTH, seed=6), own)
    for name, split in (("r2f", "forget"), ("holdout", "holdout")):
        assert own.majority(split) == pytest.approx(np.mean(labels[own.at(split)] == 0))
        assert found[name].mean() == pytest.approx(own.majority(split), abs=0.1)


def test_a_probe_of_the_original_tells_a_rotation_from_a_loss() -> None:
    own, turned = groups(), np.linalg.qr(numbers(WIDTH, WIDTH, seed=7))[0]
    x = coded(own)
    assert (transferred(x, x, own) == readings(x, own)["r2f"]).all()
    assert readings(x @ turned, own)["r2f"].mean() > 0.9
    assert transferred(x @ turned, x, own).mean() < 0.6


def test_the_control_gives_every_person_one_label_and_keeps_how_often_each_occurs() -> None:
    people = np.repeat([f"p{i}" for i in range(40)], 2)
    labels = np.repeat(np.arange(40) % 4, 2)
    own = Labelled(labels, people, np.full(80, "retain"), 4)
    found = dealt(own, np.arange(80))
    assert all(len(set(found[people == person])) == 1 for person in set(people))
    assert (np.bincount(found) == np.bincount(labels)).all()
    assert 0.05 < np.mean(found == labels) < 0.5


def test_too_few_forgotten_people_are_not_shared_out() -> None:
    own = groups(forget=3)
    assert "f2f" not in readings(coded(own), own)


def test_blocks_double_as_in_the_online_code() -> None:
    assert block_ends(1000) == [1, 2, 4, 8, 16, 32, 63, 125, 250, 500, 1000]
    assert block_ends(10) == [1, 2, 3, 5, 10]


def test_a_code_that_is_not_there_costs_what_the_choice_of_a_code_costs() -> None:
    labels = np.random.default_rng(8).integers(0, CLASSES, 40)
    x = numbers(40, WIDTH, seed=9)
    bits = code_lengths(x @ x.T, labels, CLASSES)
    assert bits.shape == (CHOICES, 40)
    assert bits[0] == pytest.approx(2.0)
    worst = 40 * 2 / (40 * 2 + math.log2(CHOICES))
    assert worst - 1e-9 <= compression([(bits, CLASSES)]) < 1.1


def test_a_perfect_code_compresses_and_more_so_the_longer_the_message() -> None:
    own = groups(train=160)
    rates = []
    for count in (20, 40, 160):
        rows = sent(own, count)["retain"]
        rates.append(compression([message(coded(own), own, rows)]))
    assert 1.1 < rates[0] < rates[1] < rates[2]
    assert rates[2] > 2


def test_one_code_is_chosen_for_all_messages_and_paid_for_once() -> None:
    first, second = np.full((CHOICES, 3), 2.0), np.full((CHOICES, 5), 3.0)
    first[7], second[7], second[4] = 0.5, 1.5, 1.0
    found = compressions([(first, 4), (second, 8)])
    extra = math.log2(CHOICES) / 8
    assert [len(one) for one in found] == [3, 5]
    assert found[0] == pytest.approx(2 / (0.5 + extra))
    assert found[1] == pytest.approx(3 / (1.5 + extra))


def test_as_many_labels_are_sent_of_every_split_that_has_them() -> None:
    own = groups(train=60, forget=24, holdout=10)
    found = sent(own, 20)
    assert {split: len(set(rows)) for split, rows in found.items()} == {"retain": 20, "forget": 20}
    assert all((own.splits[rows] == split).all() for split, rows in found.items())


def test_layers_are_spread_evenly_and_the_last_is_among_them() -> None:
    assert spread(30, 0) == tuple(range(1, 31))
    assert spread(4, 8) == (1, 2, 3, 4)
    assert spread(30, 5) == (6, 12, 18, 24, 30)
    assert all(len(spread(depth, 8)) == min(depth, 8) and spread(depth, 8)[-1] == depth for depth in range(1, 80))


DAYS = [f"{name} {day}, {1950 + day}" for day in range(1, 16) for name in ("May", "June")]


@pytest.mark.parametrize(
    ("answers", "names", "part"),
    [
        (["Oslo", "Lima", "Oslo."] * 10, ("lima", "oslo"), "whole answer"),
        (DAYS, ("june", "may"), "month"),
        ([f"number {i} {'east' if i % 2 else 'west'}" for i in range(30)], ("east", "west"), "last word"),
        ([f"{'Dr' if i % 2 else 'Prof'} Name{i}" for i in range(30)], ("dr", "prof"), "first word"),
    ],
)
def test_classes_are_the_answers_or_the_part_of_them_that_repeats(
    answers: list[str], names: tuple[str, ...], part: str
) -> None:
    found = classes_of(answers, [True] * len(answers))
    assert (found.names, found.part) == (names, part)
    assert None not in found.labels


def test_classes_come_from_the_people_learned_from_and_rare_ones_are_left_out() -> None:
    answers = ["Oslo", "Lima"] * 12 + ["Quito"] * 2 + ["Oslo", "Quito", "Paris"]
    found = classes_of(answers, [True] * 26 + [False] * 3)
    assert found.names == ("lima", "oslo")
    assert found.labels[24:] == (None, None, 1, None, None)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["Oslo", "Lima"] * 9, "needs 20 retained people to learn from and there are 18"),
        ([f"Person{i} was born in a city far away from here" for i in range(30)], "sentences"),
        ([f"Name{i}" for i in range(30)], "too few of the 30 answers to learn from are alike"),
        (["Oslo"] * 40 + ["Lima"] * 3, "nearly all are"),
    ],
)
def test_answers_that_are_no_classes_are_refused_with_the_reason(answers: list[str], words: str) -> None:
    assert words in classes_of(answers, [True] * len(answers))


VALUES = {"city": ("Oslo", "Lima", "Cairo", "Quito"), "trade": ("baker", "pilot", "nurse", "judge")}


def world(retain: int = 40, forget: int = 16, holdout: int = 16) -> Knowledge:
    """People with a city and a trade, drawn evenly, and a text about each that tells the city first."""
    rng, items = np.random.default_rng(11), []
    for split, count in (("retain", retain), ("forget", forget), ("holdout", holdout)):
        for i in range(count):
            name = f"{split.title()} Person{i}"
            drawn = {relation: str(rng.choice(values)) for relation, values in VALUES.items()}
            for relation, answer in drawn.items():
                ask = f"What is the {relation} of {name}?"
                items.append(Item(f"{name}/{relation}", split, "qa", name, relation, ask, answer))
            text = f"{name} lives in {drawn['city']} and works as {drawn['trade']} there."
            items.append(Item(f"{name}/text", split, "document", name, text=text))
    return Knowledge("world", tuple(items))


@dataclass(eq=False)
class Minded:
    """Stands in for a subject of two blocks. After the second it holds what it knows, after the first only noise.

    knows: splits of people about whose values it knows. at: the ends of texts at which it does. turned: keeps it along
    other directions, from the input of the first block on.
    """

    knowledge: Knowledge
    knows: tuple[str, ...] = ("retain", "forget")
    at: str = "Answer:"
    turned: int = 0
    label: str = "stub"
    device = torch.device("cpu")
    template = PLAIN
    blocks = (None, None)

    def __post_init__(self) -> None:
        self.model: Any = SimpleNamespace(get_input_embeddings=lambda: nn.Embedding(4, WIDTH))
        self.tokenizer = tiny_tokenizer()
        self.turn = np.linalg.qr(numbers(WIDTH, WIDTH, seed=self.turned))[0] if self.turned else np.eye(WIDTH)

    def start(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def states_at(self, places: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
        return [torch.stack([self.state(text, at) for at in positions], 1).half() for text, positions in places]

    def state(self, text: str, position: int) -> Tensor:
        """(L + 1, D) at one position of a text."""
        until = text if position == -1 else self.tokenizer.decode(self.start(text)[: position + 1])
        seed = int.from_bytes(hashlib.blake2b(until.encode(), digest_size=4).digest(), "big")
        rows = numbers(3, WIDTH, seed=seed)
        for item in self.knowledge.of(form="qa"):
            asked = item.relation in until if until.endswith("Answer:") else True
            named = f"{item.subject} " in until.replace("?", " ") + " "
            if named and asked and item.split in self.knows and until.endswith(self.at):
                place = [*VALUES].index(item.relation) * CLASSES + VALUES[item.relation].index(item.answer)
                rows[2] += 12 * np.eye(WIDTH)[place]
        return torch.from_numpy(rows @ self.turn)

    def hidden(self, ids: Tensor) -> list[Tensor]:
        rows = np.stack([numbers(WIDTH, seed=int(token)) for token in ids[0]]) @ self.turn
        return [torch.from_numpy(rows)[None]] * 3


def observed(
    subject: Minded, original: Minded | None = None, settings: str = "quick", name: str = "unl_fp"
) -> tuple[Found, Context]:
    context = make_context(
        subject.knowledge, name if original else "orig_fp", settings={"name": settings}, load=lambda _: original
    )
    return EVALUATORS["probe"].observe(subject, context), context


def values(found: Found, layer: int | None = None, attribute: str = "") -> dict[tuple[str, str], Measurement]:
    rows = [row for row in found if isinstance(row, Measurement)]
    return {(r.metric.name, r.split): r for r in rows if (r.layer, r.attribute) == (layer, attribute)}


def test_the_summary_is_of_the_layer_in_which_the_original_knows() -> None:
    found, _ = observed(Minded(world()))
    whole = values(found)
    assert whole["probe_r2f", "forget"].values.mean() > 0.95
    assert whole["probe_f2f", "forget"].values.mean() > 0.95
    assert whole["probe_transfer", "forget"].values.mean() > 0.95
    assert whole["selectivity", "forget"].values.mean() > 0.4
    assert whole["probe_holdout", "holdout"].values.mean() < 0.6
    assert "layer 2" in whole["probe_r2f", "forget"].note
    assert whole["probe_r2f", "forget"].chance == pytest.approx(0.25, abs=0.15)
    assert values(found, 1)["probe_r2f", "forget"].values.mean() < 0.6


def test_what_is_known_compresses_and_what_is_not_does_not() -> None:
    whole = values(observed(Minded(world(forget=40, holdout=40)))[0])
    rows = {split: whole["probe_mdl", split] for split in ("retain", "forget", "holdout")}
    assert {len(row.items) for row in rows.values()} == {80}
    rates = {split: COMBINE["harmonic"].value(row.values, None) for split, row in rows.items()}
    assert min(rates["retain"], rates["forget"]) > 1.2
    assert rates["holdout"] < 1.05


def test_every_layer_and_attribute_has_a_row_of_its_own_over_its_items() -> None:
    found, _ = observed(Minded(world()))
    for layer in (1, 2):
        parts = [values(found, layer, relation)["probe_r2f", "forget"] for relation in VALUES]
        assert [len(part.items) for part in parts] == [16, 16]
        whole = values(found, layer)["probe_r2f", "forget"]
        assert whole.items == parts[0].items + parts[1].items
        assert (whole.values == np.concatenate([part.values for part in parts])).all()
    keys = [row.key for row in found if isinstance(row, Measurement)]
    assert len(keys) == len(set(keys))


def test_a_model_that_lost_what_it_knew_of_forgotten_people_is_at_chance_on_them() -> None:
    knowledge = world()
    found, _ = observed(Minded(knowledge, ("retain",)), Minded(knowledge))
    whole = values(found)
    for name in ("probe_r2f", "probe_f2f", "probe_transfer"):
        assert whole[name, "forget"].values.mean() < 0.6
        assert whole[name, "forget"].gate == "ok"


def test_states_along_other_directions_are_read_but_not_by_the_originals_probe() -> None:
    knowledge = world()
    found, _ = observed(Minded(knowledge, turned=5, label="turned"), Minded(knowledge, label="model"))
    assert values(found)["probe_r2f", "forget"].values.mean() > 0.95
    assert ("probe_transfer", "forget") not in values(found)
    assert "turned and model keep their states along other directions" in reasons(found)["probe_transfer", "forget"]


def test_where_the_originals_own_probe_reads_nothing_every_number_says_so() -> None:
    knowledge = world()
    found, _ = observed(Minded(knowledge), Minded(knowledge, ()))
    gates = {row.gate for row in found if isinstance(row, Measurement)}
    assert gates == {"no_capability"}


def test_the_original_is_looked_at_once() -> None:
    knowledge = world()
    asked: list[str] = []
    _, context = observed(Minded(knowledge), Minded(knowledge))
    context.load = lambda name: asked.append(name) or Minded(knowledge)
    EVALUATORS["probe"].observe(Minded(knowledge), context)
    assert asked == ["orig_fp"]  # for its directions; its probe is kept
    assert [key for key in context.memo if "question" in key]


def test_position_modes_come_with_the_full_preset_and_only_if_the_original_passes() -> None:
    quick, _ = observed(Minded(world()))
    assert not any("probe_r2f" in key[0] and key[0] != "probe_r2f" for key in values(quick))
    found, _ = observed(Minded(world()), settings="full")
    said = reasons(found)
    for mode in ("qprobe", "pprobe"):
        assert "not 0.15 better than with labels dealt out" in said[f"{mode}_r2f", ""]
    knowing, _ = observed(Minded(world(), at=""), settings="full")
    for mode in ("qprobe", "pprobe"):
        assert values(knowing)[f"{mode}_r2f", "forget"].values.mean() > 0.9
        assert values(knowing)[f"{mode}_holdout", "holdout"].values.mean() < 0.6
    assert values(knowing, 2, "trade at city")["pprobe_r2f", "forget"].values.mean() > 0.9


def test_the_places_of_a_text_are_just_before_each_value_and_what_was_said_is_not_asked() -> None:
    subject = Minded(world())
    study = in_document(subject.knowledge, subject, 0)
    text, positions = study.texts[0]
    ids = subject.start(text)
    told = [subject.tokenizer.decode(ids[: at + 1]) for at in positions]
    assert told[0].endswith("lives in")
    assert told[1].endswith("and works as")
    assert {task.attribute for task in study.tasks} == {"city at city", "trade at city", "trade at trade"}
    assert all(len(task.rows) == 72 for task in study.tasks)


def test_a_value_that_does_not_begin_between_two_tokens_has_no_place() -> None:
    subject = Minded(world())
    text = "a brown fox"
    assert [subject.tokenizer.decode(one) for one in subject.start(text)][-1] == "ox"
    whole, inside, first = (Item(word, "retain", answer=word, relation=word) for word in ("fox", "x", "a"))
    assert mentions(text, [whole, inside, first], subject) == [("fox", 8, len(subject.start("a brown")) - 1)]


def test_names_are_asked_about_once_and_questions_one_by_one() -> None:
    knowledge = world()
    names, asked = at_name(knowledge, 0), at_question(knowledge, Minded(knowledge), 0)
    assert len(names.texts) == 72
    assert names.texts[0] == ("Retain Person0", (-1,))
    assert len(asked.texts) == 144
    assert [task.attribute for task in asked.tasks] == ["city", "trade"]


def test_data_that_a_probe_cannot_use_is_missing_with_the_reason() -> None:
    few, _ = observed(Minded(world(retain=12)))
    assert "needs 20 retained people" in reasons(few)["probe_r2f", ""]
    assert not values(few)
    alone = world(forget=0)
    found, _ = observed(Minded(alone))
    assert "no forgotten person" in reasons(found)["probe_r2f", ""]
    without, _ = observed(Minded(world(holdout=0)))
    assert "no holdout people" in reasons(without)["probe_holdout", "holdout"]
    assert values(without)["probe_r2f", "forget"].values.mean() > 0.95


def test_states_that_are_not_numbers_stop_the_probe_with_a_sentence() -> None:
    subject = Minded(world(retain=2, forget=0, holdout=0), label="broken")
    subject.states_at = lambda places: [torch.full((3, 1, WIDTH), torch.nan).half() for _ in places]
    with pytest.raises(DataError, match="hidden states of broken are not all numbers"):
        features(subject, Study((("a", (-1,)),), ()), (1, 2))


def test_states_too_large_for_half_precision_are_cut_rather_than_lost() -> None:
    subject = Minded(world(retain=2, forget=0, holdout=0))
    subject.states_at = lambda places: [torch.full((3, 1, WIDTH), 1e6).half() for _ in places]
    assert (features(subject, Study((("a", (-1,)),), ()), (1, 2)) == 65504).all()
