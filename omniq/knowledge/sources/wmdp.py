"""wmdp: multiple-choice questions in WMDP's columns, from one local file or a folder of them."""

from __future__ import annotations

from pathlib import Path

from omniq.errors import DataError
from omniq.knowledge.items import Item, Knowledge
from omniq.knowledge.rows import SUFFIXES, Row, contents, rows
from omniq.knowledge.source import SOURCES, Source

FEWEST_CHOICES = 2
ABOUT = ("dataset_info.json", "dataset_infos.json")
"""Files that the hub puts beside the data."""


def wmdp(argument: str) -> Knowledge:
    """'FILE' or 'DIR' -> choice items of the forget split; the relation is the file's name."""
    files = _files(Path(argument).expanduser())
    items = (
        _choice(row, relation, number) for relation, path in files.items() for number, row in enumerate(rows(path))
    )
    return Knowledge(f"wmdp:{argument}", tuple(items))


def _files(place: Path) -> dict[str, Path]:
    """Relation -> file. A file that the hub calls test-... goes by the name of its folder."""
    if not place.is_dir():
        return {_relation(place): place}
    paths = sorted(
        path
        for path in (*place.glob("[!.]*"), *place.glob("[!.]*/[!.]*"))
        if path.suffix in SUFFIXES and path.name not in ABOUT
    )
    if not paths:
        raise DataError(f"{place} has no .json, .jsonl or .parquet file; it holds {contents(place)}")
    found: dict[str, Path] = {}
    for path in paths:
        if (relation := _relation(path)) in found:
            raise DataError(f"{found[relation]} and {path} would both be {relation!r}; rename or move one")
        found[relation] = path
    return found


def _relation(path: Path) -> str:
    return path.parent.name if path.stem.split("-")[0] == "test" else path.stem


def _choice(row: Row, relation: str, number: int) -> Item:
    choices = row.texts("choices")
    if len(choices) < FEWEST_CHOICES:
        raise DataError(
            f"{row.place}, column 'choices' has too few entries ({len(choices)}); give every row a list of at least "
            f"{FEWEST_CHOICES}"
        )
    index = row.integer("answer", len(choices))
    return Item(
        id=f"{relation}/{number}", split="forget", form="choice", subject=f"{relation}/{number}", relation=relation,
        question=row.text("question"), answer=choices[index],
        wrong_answers=tuple(choice for choice in choices if choice != choices[index]),
        choices=choices, answer_index=index,
    )  # fmt: skip


SOURCES.add("wmdp")(
    Source(
        read=wmdp,
        summary="WMDP-style questions with choices from a local file, or several in a folder",
        argument="FILE|DIR",
        needed=True,
    )
)
