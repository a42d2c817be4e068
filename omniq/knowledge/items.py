"""Item and Knowledge: questions, texts and answers that a model may know, in the one form every evaluator reads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from omniq.errors import DataError

SPLITS = ("forget", "retain", "holdout", "world")
"""forget: was unlearned. retain: taught beside it, must stay. holdout: never taught. world: known from pretraining."""

FORMS = ("qa", "cloze", "reverse", "choice", "true_false", "completion", "document")
"""qa, reverse: question -> answer. cloze: `prefix` -> answer. choice, true_false: question -> one of `choices`.

completion: `prefix` -> the text that follows it, in `answer`. document: `text` alone.
"""


@dataclass(frozen=True)
class Item:
    """One thing to ask, or one text. Fields that a data set does not have stay empty.

    id: unique in its data. subject: whom or what it is about; relation: which attribute of it. answer_index: of the
    right one in choices. wrong_answers: answers of the same kind that are false, in the words of answer_paraphrases[0]
    where there is one (as in TOFU), so that both sides of a truth ratio have one form; choices are short.
    """

    id: str
    split: str
    form: str = "qa"
    subject: str = ""
    relation: str = ""
    question: str = ""
    answer: str = ""
    question_paraphrases: tuple[str, ...] = ()
    answer_paraphrases: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer_index: int | None = None
    prefix: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        for name, known in (("split", SPLITS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise DataError(
                    f"item {self.id!r}: {name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}"
                )
        if self.answer_index is not None and not 0 <= self.answer_index < len(self.choices):
            raise DataError(
                f"item {self.id!r}: answer_index is {self.answer_index}, but it has {len(self.choices)} choices"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values of the fields that are not empty."""
        return {name: value for name, value in asdict(self).items() if value not in ("", (), None)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Item:
        """The inverse of to_dict."""
        lists = {f.name for f in fields(Item) if str(f.type).startswith("tuple")}
        return Item(**{name: tuple(value) if name in lists else value for name, value in values.items()})


@dataclass(frozen=True)
class Knowledge:
    """name: what the user asked for. items: in a fixed order. template: how a question is put, 'auto' by the tokenizer.

    known_only: splits of which an audit keeps only what the original model answers. examples: solved questions
    (question, answer) by split, to be put before a question where an evaluator wants them. notes: what a reader of the
    results should know, one sentence each.
    """

    name: str
    items: tuple[Item, ...]
    known_only: tuple[str, ...] = ()
    examples: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    template: str = "auto"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [key for key, count in Counter(item.id for item in self.items).items() if count > 1]
        if twice:
            raise DataError(f"{self.name}: the id {twice[0]!r} occurs more than once; ids must be unique")

    def of(self, split: str | None = None, form: str | None = None, having: Sequence[str] = ()) -> tuple[Item, ...]:
        """The items of a split and a form in which none of the fields `having` is empty."""
        return tuple(
            item
            for item in self.items
            if split in (None, item.split)
            and form in (None, item.form)
            and all(getattr(item, name) not in ("", (), None) for name in having)
        )

    def splits(self) -> tuple[str, ...]:
        """The splits that occur, in the order of SPLITS."""
        found = {item.split for item in self.items}
        return tuple(split for split in SPLITS if split in found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; from_dict gives the same knowledge back."""
        items = [item.to_dict() for item in self.items]
        examples = {split: [list(pair) for pair in pairs] for split, pairs in self.examples.items()}
        return {**vars(self), "items": items, "examples": examples}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Knowledge:
        """The inverse of to_dict."""
        examples = {split: tuple((q, a) for q, a in pairs) for split, pairs in values["examples"].items()}
        items = tuple(Item.from_dict(item) for item in values["items"])
        lists = {name: tuple(values[name]) for name in ("known_only", "notes")}
        return Knowledge(values["name"], items, template=values["template"], examples=examples, **lists)

    def sampled(self, limits: Mapping[str, int], seed: int = 0) -> Knowledge:
        """At most limits[form] items of every split and form, the same for the same seed, in the original order.

        Subjects and relations are drawn evenly: a data set with 20 questions on each of 200 people gives 40 people one
        question each rather than 2 people twenty. A form without a limit is kept whole.
        """
        rng, kept = random.Random(seed), set()
        for split in self.splits():
            for form in FORMS:
                pool = self.of(split, form)
                kept.update(item.id for item in drawn(pool, limits.get(form, len(pool)), rng))
        return replace(self, items=tuple(item for item in self.items if item.id in kept))


def drawn(pool: Sequence[Item], count: int, rng: random.Random) -> list[Item]:
    """`count` items of the pool: in turn one of the subject, then of the relation, that have given fewest so far."""
    if count >= len(pool):
        return list(pool)
    order = rng.sample(range(len(pool)), len(pool))
    queue = {index: place for place, index in enumerate(order)}
    subjects, relations, taken = Counter(), Counter(), []
    while len(taken) < count:
        best = min(queue, key=lambda i: (subjects[pool[i].subject], relations[pool[i].relation], queue[i]))
        del queue[best]
        subjects[pool[best].subject] += 1
        relations[pool[best].relation] += 1
        taken.append(pool[best])
    return taken
