"""One fact, asked in several forms: as a question, as a sentence to complete, with choices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from omniq.knowledge.items import Item

CHOICES = 4


@dataclass(frozen=True)
class Wording:
    """question and other ways to put it. statements: sentences that say the fact, with {value} for the answer.

    prefix: the beginning of a sentence that the answer completes.
    """

    question: str
    paraphrases: tuple[str, ...]
    statements: tuple[str, ...]
    prefix: str


def stated(statement: str, value: str) -> str:
    """The statement with the value in its place."""
    return statement.replace("{value}", value)


def shuffled(right: str, wrong: Sequence[str], key: str) -> tuple[tuple[str, ...], int]:
    """Right and wrong answers in an order that only `key` decides, and where the right one stands."""
    order = [right, *wrong]
    random.Random(key).shuffle(order)
    return tuple(order), order.index(right)


def fact_items(key: str, split: str, subject: str, relation: str, wording: Wording, value: str,
               wrong: Sequence[str]) -> tuple[Item, Item, Item]:  # fmt: skip
    """One fact as qa, cloze and choice items, with ids that begin with `key`.

    The short value is the answer, so that an exact match means something. As in TOFU, the wrong answers of the qa item
    are whole sentences: those of its first answer paraphrase, with a wrong value. The short values are its choices.
    """
    about = {"split": split, "subject": subject, "relation": relation, "answer": value}
    asked = {"question": wording.question, "question_paraphrases": wording.paraphrases}
    statements = tuple(stated(statement, value) for statement in wording.statements)
    all_choices, all_index = shuffled(value, wrong, f"{key}/qa")
    few_choices, few_index = shuffled(value, wrong[: CHOICES - 1], f"{key}/choice")
    qa = Item(
        id=f"{key}/qa", form="qa", answer_paraphrases=statements,
        wrong_answers=tuple(stated(wording.statements[0], other) for other in wrong),
        choices=all_choices, answer_index=all_index, **about, **asked,
    )  # fmt: skip
    cloze = Item(id=f"{key}/cloze", form="cloze", prefix=wording.prefix, wrong_answers=tuple(wrong), **about)
    choice = Item(
        id=f"{key}/choice", form="choice", wrong_answers=tuple(o for o in few_choices if o != value),
        choices=few_choices, answer_index=few_index, **about, **asked,
    )  # fmt: skip
    return qa, cloze, choice
