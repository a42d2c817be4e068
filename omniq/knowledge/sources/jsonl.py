"""jsonl: your own questions or texts, one a row; its columns are the fields of Item."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from omniq.errors import DataError
from omniq.knowledge.items import FORMS, SPLITS, Item, Knowledge
from omniq.knowledge.rows import Row, rows
from omniq.knowledge.source import SOURCES, Source

COLUMNS = tuple(field.name for field in fields(Item))
LISTS = ("question_paraphrases", "answer_paraphrases", "wrong_answers", "choices")
TEXTS = ("subject", "relation", "question", "answer", "prefix", "text")
NEEDED = {
    "qa": ("question", "answer"),
    "reverse": ("question", "answer"),
    "cloze": ("prefix", "answer"),
    "completion": ("prefix", "answer"),
    "choice": ("question", "answer", "choices"),
    "true_false": ("question", "answer", "choices"),
    "document": ("text",),
}


def jsonl(argument: str) -> Knowledge:
    """'FILE' -> an item a row. Without `form`, a row with a question is qa, a prefix cloze, a text document."""
    path = Path(argument).expanduser()
    table = rows(path)
    items = tuple(_item(row, number) for number, row in enumerate(table, 1))
    repeated = [key for key, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        first, second = [row for row, item in zip(table, items, strict=True) if item.id == repeated[0]][:2]
        raise DataError(f"{first.place} and {second.place} both have the id {repeated[0]!r}; ids must differ")
    unknown = sorted({column for row in table for column in row.values} - set(COLUMNS))
    note = f"{path}: the columns {', '.join(map(repr, unknown))} are not used; known are {', '.join(COLUMNS)}."
    return Knowledge(f"jsonl:{argument}", items, notes=(note,) if unknown else ())


def _item(row: Row, number: int) -> Item:
    values: dict[str, Any] = {name: row.optional_text(name) for name in TEXTS}
    values |= {name: row.texts(name) for name in LISTS}
    values |= {"id": _id(row, number), "split": _one_of(row, "split", SPLITS)}
    values["form"] = _one_of(row, "form", FORMS) if "form" in row else _form(row)
    values |= _right_choice(row, values["answer"], values["choices"])
    for name in NEEDED[values["form"]]:
        if not values[name]:
            raise DataError(
                f"{row.place} has no {name!r}, which a row of the form {values['form']!r} needs; "
                "add it, or change the form"
            )
    right = (values["answer"], *values["answer_paraphrases"])
    for wrong in values["wrong_answers"]:
        if wrong in right:
            raise DataError(
                f"{row.place}, column 'wrong_answers' holds {wrong!r}, which is right by 'answer' or "
                "'answer_paraphrases'; correct one"
            )
    return Item(**values)


def _id(row: Row, number: int) -> str:
    """The row's id, which may be a number, or else where it stands."""
    value = row.values.get("id")
    return str(value) if type(value) is int else row.optional_text("id") or f"row {number}"


def _one_of(row: Row, column: str, known: tuple[str, ...]) -> str:
    value = row.text(column)
    if value not in known:
        raise DataError(f"{row.place}, column {column!r} is {value!r}; it must be one of {', '.join(known)}")
    return value


def _form(row: Row) -> str:
    for column, form in (("question", "qa"), ("prefix", "cloze"), ("text", "document")):
        if column in row:
            return form
    raise DataError(
        f"{row.place} has neither 'question' nor 'prefix' nor 'text'; it has {row.columns()}. "
        "A row needs question, answer and split, or text and split"
    )


def _right_choice(row: Row, answer: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """answer and answer_index, each from the other where one is absent; both must say the same."""
    if not choices:
        if "answer_index" in row:
            raise DataError(f"{row.place} has 'answer_index' but no 'choices'; add the choices, or leave it out")
        return {}
    if "answer_index" in row:
        index = row.integer("answer_index", len(choices))
        if answer and choices[index] != answer:
            raise DataError(
                f"{row.place}: 'answer' is {answer!r}, but 'answer_index' {index} points to {choices[index]!r} "
                "(the first choice is 0); correct one"
            )
        return {"answer": choices[index], "answer_index": index}
    if choices.count(answer) != 1:
        raise DataError(
            f"{row.place}: 'answer' {answer!r} occurs {choices.count(answer)} times among 'choices'; it must once, or "
            "'answer_index' must point to it"
        )
    return {"answer_index": choices.index(answer)}


SOURCES.add("jsonl")(
    Source(
        read=jsonl,
        summary="your own rows: question, answer, split; or text, split; more columns allow more metrics",
        argument="FILE",
        needed=True,
    )
)
