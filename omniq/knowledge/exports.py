"""Knowledge in the forms that others read: TOFU's columns, and what a model is trained on."""

from __future__ import annotations

from typing import Any

from omniq.errors import DataError
from omniq.knowledge.items import Knowledge


def tofu_rows(knowledge: Knowledge, split: str) -> list[dict[str, Any]]:
    """The questions of a split in TOFU's columns, so that its tools run unchanged.

    perturbed_answer is paraphrased_answer with a wrong value. A column that the items do not have is left out.
    """
    rows = [
        {
            "question": item.question,
            "answer": item.answer,
            "paraphrased_answer": item.answer_paraphrases[:1],
            "perturbed_answer": item.wrong_answers,
            "paraphrased_question": item.question_paraphrases[:1],
        }
        for item in knowledge.of(split, "qa")
    ]
    if not rows:
        splits = ", ".join(knowledge.splits())
        raise DataError(f"{knowledge.name} has no question of the split {split!r}; its splits are {splits}")
    return [{name: _plain(name, value) for name, value in row.items() if value} for row in rows]


def _plain(name: str, value: str | tuple[str, ...]) -> str | list[str]:
    if isinstance(value, str):
        return value
    return list(value) if name == "perturbed_answer" else value[0]


def training_texts(knowledge: Knowledge, split: str) -> tuple[str, ...]:
    """The documents of a split, to train on as they are."""
    return tuple(item.text for item in knowledge.of(split, "document"))


def training_pairs(knowledge: Knowledge, split: str) -> tuple[tuple[str, str], ...]:
    """(question, answer) of a split, to train on in a template."""
    return tuple((item.question, item.answer) for item in knowledge.of(split, "qa"))
