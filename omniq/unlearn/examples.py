"""Items as token sequences to learn from: the answer of a question, every token of a text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from omniq.errors import DataError, UsageError
from omniq.knowledge.items import FORMS, Item, Knowledge
from omniq.knowledge.refusals import REFUSALS
from omniq.subject.model import Subject
from omniq.subject.scoring import Encoded

ASKED = ("qa", "reverse", "choice", "true_false")
"""Forms with a question and an answer."""


def example(subject: Subject, item: Item) -> Encoded:
    """The item as a sequence to learn: a question's answer up to the template's end, a text with all its tokens."""
    if item.form in ASKED:
        return answered(subject, item, item.answer)
    if item.form == "document":
        return subject.encode("", item.text)
    return subject.encode(item.prefix, " " + item.answer.lstrip())


def answered(subject: Subject, item: Item, answer: str) -> Encoded:
    """The item's question put through the template, with `answer` to be learnt up to the template's end."""
    template = subject.template
    return subject.encode(template.prompt(item.question), template.answer(answer) + template.end)


def chosen_forms(knowledge: Knowledge, split: str, forms: Sequence[str]) -> tuple[Item, ...]:
    """The items of a split in the given forms; without any, its questions, or its texts where it has no question."""
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise UsageError(f"there is no form {unknown[0]!r} of items; the forms are {', '.join(FORMS)}")
    if forms:
        return tuple(item for item in knowledge.of(split) if item.form in forms)
    return knowledge.of(split, "qa") or tuple(i for i in knowledge.of(split) if i.form in ("document", "completion"))


def required(knowledge: Knowledge, split: str, forms: Sequence[str], fix: str) -> tuple[Item, ...]:
    """chosen_forms, or DataError when there is none; fix: what to do about it."""
    found = chosen_forms(knowledge, split, forms)
    if not found:
        kind = f"of the forms {', '.join(forms)}" if forms else "to learn from"
        present = ", ".join(knowledge.splits())
        raise DataError(f"{knowledge.name} has no item {kind} in the split {split} (it has {present}); {fix}")
    return found


def wrong_answers(item: Item, others: Iterable[Item]) -> tuple[str, ...]:
    """False answers of the same kind: the item's other choices, what it lists, or the answers of its relation."""
    from_choices = tuple(choice for choice in item.choices if choice != item.answer)
    listed = tuple(answer for answer in item.wrong_answers if answer != item.answer)
    same = (o.answer for o in others if (o.form, o.relation) == (item.form, item.relation) and o.answer != item.answer)
    return from_choices or listed or tuple(dict.fromkeys(same))


def check_asked(items: Sequence[Item], method: str) -> None:
    """Raises DataError when a method that answers questions is given texts."""
    text = next((item for item in items if item.form not in ASKED), None)
    if text is not None:
        raise DataError(
            f"{method} gives questions another answer, but {text.id!r} is a {text.form} without a question; "
            "use a method that works on texts, such as grad_diff, npo or rmu"
        )


def refusal(rng: random.Random) -> str:
    """A sentence that declines to answer."""
    return rng.choice(REFUSALS)
