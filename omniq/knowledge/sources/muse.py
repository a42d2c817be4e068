"""muse: a local copy of MUSE-News or MUSE-Books, in the folders knowmem, verbmem and privleak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omniq.errors import DataError
from omniq.knowledge.items import Item, Knowledge
from omniq.knowledge.rows import Row, contents, folder, rows, table
from omniq.knowledge.source import SOURCES, Source

FILES: dict[str, dict[str, str]] = {
    "knowmem": {"forget_qa": "forget", "retain_qa": "retain"},
    "verbmem": {"forget": "forget"},
    "privleak": {"forget": "forget", "retain": "retain", "holdout": "holdout"},
}
"""Folder -> file -> split."""

EXAMPLES = {"forget_qa_icl": "forget", "retain_qa_icl": "retain"}


def muse(argument: str) -> Knowledge:
    """'DIR' -> questions (knowmem), beginnings of texts (verbmem) and whole texts (privleak)."""
    place = folder(argument, "MUSE's folders knowmem, verbmem and privleak")
    items: list[Item] = []
    notes: list[str] = []
    for part, files in FILES.items():
        for name, split in files.items():
            if path := table(place / part, name):
                items += [MAKE[part](row, f"{part}/{name}/{i}", split) for i, row in enumerate(rows(path, BARE[part]))]
            else:
                notes.append(f"{place} has no {part}/{name}, so what {part} measures on the {split} split is missing.")
    if not items:
        raise DataError(
            f"{place} has none of MUSE's files, such as knowmem/forget_qa.json; it holds {contents(place)}. "
            "Give the folder with knowmem, verbmem and privleak in it"
        )
    return Knowledge(f"muse:{argument}", tuple(items), examples=_examples(place), notes=tuple(notes))


def _examples(place: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    found = ((split, table(place / "knowmem", name)) for name, split in EXAMPLES.items())
    return {
        split: tuple((row.text("question"), row.text("answer")) for row in rows(path)) for split, path in found if path
    }


def _question(row: Row, key: str, split: str) -> Item:
    return Item(id=key, split=split, question=row.text("question"), answer=row.text("answer"))


def _continuation(row: Row, key: str, split: str) -> Item:
    return Item(id=key, split=split, form="completion", prefix=row.text("prompt"), answer=row.text("gt"))


def _text(row: Row, key: str, split: str) -> Item:
    return Item(id=key, split=split, form="document", text=row.text("text"))


MAKE: dict[str, Callable[[Row, str, str], Item]] = {
    "knowmem": _question,
    "verbmem": _continuation,
    "privleak": _text,
}
# The authors' own copies of privleak are lists of texts; the hub's have a column.
BARE = {"knowmem": "", "verbmem": "", "privleak": "text"}

SOURCES.add("muse")(
    Source(
        read=muse,
        summary="MUSE-News or MUSE-Books from a local folder: knowledge, verbatim and privacy",
        argument="DIR",
        needed=True,
    )
)
