"""The text of a biography: one sentence per attribute, in drawn words and a drawn order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from omniq.knowledge.biographies.attributes import ATTRIBUTES, Attribute
from omniq.knowledge.biographies.people import Person
from omniq.knowledge.biographies.settings import BiographySettings

# who, whom, whose, was
FORMS = {
    "he": ("he", "him", "his", "was"),
    "she": ("she", "her", "her", "was"),
    "they": ("they", "them", "their", "were"),
}


def biographies(person: Person, settings: BiographySettings) -> list[str]:
    """The `multi` biographies of a person, which say the same in different words."""
    rng = random.Random(f"{settings.seed}/{person.id}/biographies")
    known = [attribute for attribute in ATTRIBUTES if attribute.name in person.values]
    wordings = {attribute.name: _sentences(attribute, settings.multi, rng) for attribute in known}
    return [
        _biography(person, [(a, wordings[a.name][version]) for a in _order(known, settings, rng)], settings.fullname)
        for version in range(settings.multi)
    ]


def _sentences(attribute: Attribute, count: int, rng: random.Random) -> list[str]:
    """`count` of the attribute's sentences; none comes a second time before all have come."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(attribute.sentences, len(attribute.sentences))
    return found[:count]


def _order(attributes: Sequence[Attribute], settings: BiographySettings, rng: random.Random) -> list[Attribute]:
    step = 2 if settings.couple else 1
    groups = [attributes[i : i + step] for i in range(0, len(attributes), step)]
    if settings.permute:
        rng.shuffle(groups)
    return [attribute for group in groups for attribute in group]


def _biography(person: Person, told: Sequence[tuple[Attribute, str]], fullname: bool) -> str:
    return " ".join(
        sentence(words, person, person.values[attribute.name], named=fullname or index == 0)
        for index, (attribute, words) in enumerate(told)
    )


def sentence(words: str, person: Person, value: str, named: bool) -> str:
    """One sentence of a biography, about the person by name or by pronoun."""
    who, whom, whose, was = FORMS[person.pronoun]
    if named:
        who, whom, whose, was = person.name, person.name, f"{person.name}'s", "was"
    return words.format(
        Who=who[0].upper() + who[1:], who=who, whom=whom, Whose=whose[0].upper() + whose[1:], whose=whose, was=was,
        value=value,
    )  # fmt: skip
