"""tofu: a local copy of TOFU, questions on invented authors, with real authors and world facts beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omniq.errors import DataError, UsageError
from omniq.knowledge.forms import shuffled
from omniq.knowledge.items import Item, Knowledge
from omniq.knowledge.options import key_values
from omniq.knowledge.rows import Row, contents, folder, rows, table
from omniq.knowledge.source import SOURCES, Source

PER_AUTHOR = 20
# per cent forgotten -> per cent retained
SIZES = {"01": "99", "05": "95", "10": "90"}
WORLD = {"real_authors": "real_authors_perturbed", "world_facts": "world_facts_perturbed"}


def tofu(argument: str) -> Knowledge:
    """'DIR' or 'DIR,forget=05' -> TOFU's questions; without forget, the smallest forget set that is there."""
    text, options = _options(argument)
    place = folder(text, "TOFU's files, such as forget10.json or forget10_perturbed.json")
    size, notes = _forget_size(place, options.get("forget"))
    items: list[Item] = []
    tables = _tables(place, size)
    if "retain" not in tables:
        notes.append(f"{place} has no retain_perturbed and no retain{SIZES[size]}, so there is no retain split.")
    for split, path in tables.items():
        found, note = _questions(path, split)
        items += found
        notes += note
    for relation, name in WORLD.items():
        if path := table(place, name):
            items += [_world(row, relation, number) for number, row in enumerate(rows(path))]
        else:
            notes.append(f"{place} has no {name}, so nothing is asked about {relation.replace('_', ' ')}.")
    return Knowledge(f"tofu:{argument}", tuple(items), notes=tuple(notes))


def _options(argument: str) -> tuple[str, dict[str, str]]:
    """'DIR,forget=05' -> 'DIR', {'forget': '05'}; a comma in the folder's name does no harm."""
    text, given = re.fullmatch(r"(.*?)((?:,\s*\w+=[^,]*)*)", argument, re.DOTALL).groups()
    options = key_values(given, "tofu")
    for name in options:
        if name != "forget":
            raise UsageError(f"tofu has no option {name!r}; it has forget, which is one of {', '.join(SIZES)}")
    if "forget" in options:
        options["forget"] = options["forget"].zfill(2)
        if options["forget"] not in SIZES:
            raise UsageError(f"tofu: forget={options['forget']} is not one of {', '.join(SIZES)}; they are per cent")
    return text, options


def _forget_size(place: Path, wanted: str | None) -> tuple[str, list[str]]:
    """Which forget set is read, and a note where there was a choice."""
    there = [size for size in SIZES if _forget(place, size)]
    if not there:
        raise DataError(
            f"{place} has none of forget01, forget05 and forget10 as .json, .jsonl or .parquet (with or without "
            f"_perturbed); it holds {contents(place)}. Give the folder with TOFU's files"
        )
    if wanted and wanted not in there:
        raise DataError(f"{place} has no forget{wanted}; forget can be {' or '.join(there)} here")
    if wanted or len(there) == 1:
        return wanted or there[0], []
    others = " or ".join(f"forget={size}" for size in there[1:])
    return there[0], [f"The forget set is forget{there[0]}; a larger one is taken with {others}."]


def _forget(place: Path, size: str) -> Path | None:
    return table(place, f"forget{size}_perturbed", f"forget{size}")


def _tables(place: Path, size: str) -> dict[str, Path]:
    """The file of every split; retain_perturbed comes first because it has paraphrases and wrong answers."""
    # A retain set of more than 100 - size per cent would hold questions of the forget set.
    retained = [share for share in SIZES.values() if share <= SIZES[size]]
    found = {
        "forget": _forget(place, size),
        "retain": table(place, "retain_perturbed", *(f"retain{share}" for share in retained)),
        "holdout": table(place, f"holdout{size}_perturbed", f"holdout{size}"),
    }
    return {split: path for split, path in found.items() if path}


def _questions(path: Path, split: str) -> tuple[list[Item], list[str]]:
    """The items of a file with authors one after the other, twenty questions each, and what a reader should know."""
    table_rows, name = rows(path), path.name.partition(".")[0]
    authors = len(table_rows) % PER_AUTHOR == 0
    items = [
        _item(row, f"{name}/{number}", split, f"{name}/author {number // PER_AUTHOR}" if authors else "")
        for number, row in enumerate(table_rows)
    ]
    note = f"{path} has {len(items)} rows, no multiple of {PER_AUTHOR}, so its questions are not assigned to authors."
    return items, [] if authors else [note]


def _item(row: Row, key: str, split: str, subject: str) -> Item:
    paraphrase, answer = row.optional_text("paraphrased_answer"), row.text("answer")
    question = row.optional_text("paraphrased_question")
    return Item(
        id=key, split=split, subject=subject, question=row.text("question"), answer=answer,
        question_paraphrases=(question,) if question else (),
        answer_paraphrases=(paraphrase,) if paraphrase else (),
        wrong_answers=_false(row.texts("perturbed_answer"), (paraphrase, answer), row),
    )  # fmt: skip


def _world(row: Row, relation: str, number: int) -> Item:
    """A question with short answers, right and wrong, which are its choices; it has no paraphrases."""
    key, answer = f"{relation}/{number}", row.text("answer")
    wrong = _false(row.texts("perturbed_answer"), (answer,), row)
    choices, index = shuffled(answer, wrong, key) if wrong else ((), None)
    return Item(
        id=key, split="world", subject=key, relation=relation, question=row.text("question"), answer=answer,
        wrong_answers=wrong, choices=choices, answer_index=index,
    )  # fmt: skip


def _false(wrong: tuple[str, ...], right: Sequence[str], row: Row) -> tuple[str, ...]:
    """The wrong answers, of which none may be right."""
    for answer in wrong:
        if answer in right:
            raise DataError(
                f"{row.place}, column 'perturbed_answer' holds the right answer {answer!r}; keep only wrong ones"
            )
    return wrong


SOURCES.add("tofu")(
    Source(
        read=tofu,
        summary="TOFU from a local folder: invented authors to forget and retain, real authors and world facts",
        argument="DIR[,forget=01|05|10]",
        needed=True,
    )
)
