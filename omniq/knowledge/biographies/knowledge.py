"""Synthetic biographies as Knowledge: texts to train on and to put into context, and every form of question."""

from __future__ import annotations

from collections.abc import Iterator

from omniq.knowledge.biographies.people import Person, people, pools
from omniq.knowledge.biographies.questions import person_items, reverse_item, true_statements
from omniq.knowledge.biographies.settings import BiographySettings, biography_settings
from omniq.knowledge.biographies.writing import biographies
from omniq.knowledge.items import Item, Knowledge


def synthetic(argument: str = "") -> Knowledge:
    """'seed=0,people=200,...' -> invented people; the same argument always gives the same items."""
    settings = biography_settings(argument)
    everyone = people(settings)
    reverse = [reverse_item(person, everyone, settings.seed) for person in everyone]
    unasked = reverse.count(None)
    note = f"{unasked} of {len(everyone)} people share every attribute with someone; they have no reverse question."
    return Knowledge(
        name=f"synthetic:{argument}" if argument else "synthetic",
        items=(*_items(everyone, settings), *(item for item in reverse if item is not None)),
        notes=(note,) if unasked else (),
    )


def _items(everyone: tuple[Person, ...], settings: BiographySettings) -> Iterator[Item]:
    pool, truths = pools(settings), true_statements(everyone, settings.seed)
    for person in everyone:
        yield from person_items(person, pool, truths, settings.seed)
        for version, text in enumerate(biographies(person, settings)):
            yield Item(
                id=f"{person.id}/biography/{version}", split=person.split, form="document", subject=person.name,
                text=text,
            )  # fmt: skip
