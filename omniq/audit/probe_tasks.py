"""What a probe is asked: where in which texts it looks, and which value of an attribute it has to tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from omniq.audit.metrics.labels import classes_of
from omniq.audit.metrics.readings import Labelled
from omniq.errors import DataError
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject

SPLITS = ("retain", "forget", "holdout")
"""Trained on, asked about, never taught."""

LARGEST = float(np.finfo(np.float16).max)
PASS = 128
"""Texts whose states of all layers are held at once, before those of the layers looked at are taken."""


@dataclass(frozen=True, eq=False)
class Task:
    """One attribute to tell at N of the places: rows (N,) are their indices, items what each is counted as."""

    attribute: str
    rows: ndarray
    items: tuple[str, ...]
    own: Labelled
    part: str = "whole answer"


@dataclass(frozen=True)
class Example:
    """A place, by index, at which the answer of `item` could be told. counted: the id of what it is counted as."""

    row: int
    item: Item
    counted: str


@dataclass(frozen=True)
class Study:
    """texts: (text, token positions in it); their places are counted through. tasks: what is told there.

    left_out: why other attributes are not asked for, by their names.
    """

    texts: tuple[tuple[str, tuple[int, ...]], ...]
    tasks: tuple[Task, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """A sentence about what was left out or made coarser, '' if nothing was."""
        coarse = [f"{task.attribute} is told by its {task.part}" for task in self.tasks if task.part != "whole answer"]
        return "; ".join([*coarse, *(f"no {name}: {reason}" for name, reason in self.left_out.items())])


def about(item: Item) -> str:
    """Whom an item is about; one without a subject is about nobody else."""
    return item.subject or item.id


def facts(knowledge: Knowledge) -> tuple[Item, ...]:
    """The questions that a probe can be asked, of the splits it needs."""
    fitting = knowledge.of(form="qa", having=("question", "answer"))
    return tuple(item for item in fitting if item.split in SPLITS)


def tasks_of(groups: Mapping[str, Sequence[Example]], seed: int) -> tuple[tuple[Task, ...], dict[str, str]]:
    """Examples by attribute -> (a task for each that has classes, why the others have none)."""
    tasks, left_out = [], {}
    for attribute, examples in groups.items():
        answers = [one.item.answer for one in examples]
        found = classes_of(answers, [one.item.split == "retain" for one in examples])
        if isinstance(found, str):
            left_out[attribute] = found
            continue
        kept = [(one, label) for one, label in zip(examples, found.labels, strict=True) if label is not None]
        if not any(one.item.split == "forget" for one, _ in kept):
            left_out[attribute] = "no forgotten person has a value that retained people have"
            continue
        own = Labelled(
            labels=np.array([label for _, label in kept]),
            people=np.array([about(one.item) for one, _ in kept]),
            splits=np.array([one.item.split for one, _ in kept]),
            classes=len(found.names),
            seed=seed,
        )
        rows = np.array([one.row for one, _ in kept])
        tasks.append(Task(attribute, rows, tuple(one.counted for one, _ in kept), own, found.part))
    return tuple(tasks), left_out


def grouped(examples: Iterable[tuple[str, Example]]) -> dict[str, list[Example]]:
    """(attribute, example) pairs -> examples by attribute."""
    groups: dict[str, list[Example]] = {}
    for attribute, example in examples:
        groups.setdefault(attribute, []).append(example)
    return groups


def at_question(knowledge: Knowledge, subject: Subject, seed: int) -> Study:
    """Places: the last token of every question, as it is put to the model. Tasks: its answer, per relation."""
    items = facts(knowledge)
    texts = tuple((subject.template.prompt(item.question), (-1,)) for item in items)
    pairs = ((item.relation or "answer", Example(row, item, item.id)) for row, item in enumerate(items))
    return Study(texts, *tasks_of(grouped(pairs), seed))


def at_name(knowledge: Knowledge, seed: int) -> Study:
    """Q-probing. Places: the last token of a text that is a person's name alone. Tasks: all that is known of them."""
    items = [item for item in facts(knowledge) if item.subject]
    names = list(dict.fromkeys(item.subject for item in items))
    rows = {name: row for row, name in enumerate(names)}
    pairs = ((item.relation or "answer", Example(rows[item.subject], item, item.id)) for item in items)
    return Study(tuple((name, (-1,)) for name in names), *tasks_of(grouped(pairs), seed))


def in_document(knowledge: Knowledge, subject: Subject, seed: int) -> Study:
    """P-probing. Places: the token before the first mention of each attribute's value in a text about a person.

    Tasks: every attribute at each of those places, except where its value stands in the text before, since there it
    could be copied. One text of a person: the first that mentions any value.
    """
    known: dict[str, list[Item]] = {}
    for item in facts(knowledge):
        if item.subject and item.relation:
            known.setdefault(item.subject, []).append(item)
    texts: list[tuple[str, tuple[int, ...]]] = []
    pairs: list[tuple[str, Example]] = []
    row, done = 0, set[str]()
    for document in knowledge.of(form="document", having=("text", "subject")):
        items = known.get(document.subject, []) if document.subject not in done else []
        marks = mentions(document.text, items, subject)
        if not marks:
            continue
        done.add(document.subject)
        texts.append((document.text, tuple(position for _, _, position in marks)))
        for place, start, _ in marks:
            before = document.text[:start]
            told = (item for item in items if item.answer not in before)
            pairs += [(f"{item.relation} at {place}", Example(row, item, document.id)) for item in told]
            row += 1
    return Study(tuple(texts), *tasks_of(grouped(pairs), seed))


def mentions(text: str, items: Sequence[Item], subject: Subject) -> list[tuple[str, int, int]]:
    """(relation, character where its value begins, token just before it) of every value that the text mentions.

    One whose beginning is not between two tokens is left out.
    """
    found, ids = [], subject.start(text)
    for item in items:
        start = text.find(item.answer)
        before = subject.start(text[:start].rstrip()) if start > 0 else []
        if before and ids[: len(before)] == before:
            found.append((item.relation, start, len(before) - 1))
    return found


def features(subject: Subject, study: Study, layers: Sequence[int]) -> ndarray:
    """Hidden states at every place of a study after each of the layers: (P, L, D) float16."""
    found: list[ndarray] = []
    for first in range(0, len(study.texts), PASS):
        for states in subject.states_at(study.texts[first : first + PASS]):
            found.append(states[list(layers)].transpose(0, 1).clamp(-LARGEST, LARGEST).numpy())
    whole = np.concatenate(found)
    if not np.isfinite(whole).all():
        raise DataError(f"the hidden states of {subject.label} are not all numbers, so a probe has nothing to read")
    return whole
