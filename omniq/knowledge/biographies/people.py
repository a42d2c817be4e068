"""People: names, pronouns and the values of their attributes, drawn independently and evenly."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from omniq.knowledge.biographies import words
from omniq.knowledge.biographies.attributes import ATTRIBUTES
from omniq.knowledge.biographies.settings import FEWEST, BiographySettings

PRONOUNS = ("he", "she", "they")


@dataclass(frozen=True)
class Person:
    """values: one for every attribute, by its name."""

    id: str
    split: str
    name: str
    pronoun: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Pools:
    """values: all that an attribute can be, by its name. seat: the city of every employer."""

    values: Mapping[str, tuple[str, ...]]
    seat: Mapping[str, str]


def pools(settings: BiographySettings) -> Pools:
    """The values that these biographies draw from. An employer's city depends on the employer alone."""
    rng, count = random.Random(f"{settings.seed}/pools"), settings.values
    days = [f"{month} {day}, {year}" for year in words.YEARS for month in words.MONTHS for day in words.DAYS]
    lists = {
        "birth_date": days,
        "birth_city": words.BIRTH_CITIES,
        "university": words.UNIVERSITIES,
        "major": words.MAJORS,
        "employer": words.EMPLOYERS,
    }
    drawn = {name: tuple(rng.sample(values, count)) for name, values in lists.items()}
    # Two cities for three employers: the city follows from the employer, but not the other way round.
    cities = rng.sample(words.WORK_CITIES, max(FEWEST, math.ceil(count * 2 / 3)))
    seat = {employer: cities[i % len(cities)] for i, employer in enumerate(drawn["employer"])}
    every = drawn | {"employer_city": tuple(cities)}
    return Pools({a.name: every[a.name] for a in ATTRIBUTES[: settings.attributes]}, seat)


def full_names(settings: BiographySettings) -> list[str]:
    """As many different names as there are people: first, middle and last."""
    lists = (words.FIRST_NAMES, words.MIDDLE_NAMES, words.LAST_NAMES)
    # Drawing numbers rather than names makes them different without trying again.
    numbers = random.Random(f"{settings.seed}/names").sample(range(math.prod(map(len, lists))), settings.people)
    return [" ".join(_digits(number, lists)) for number in numbers]


def _digits(number: int, lists: tuple[tuple[str, ...], ...]) -> list[str]:
    found = []
    for names in lists:
        number, place = divmod(number, len(names))
        found.append(names[place])
    return found


def people(settings: BiographySettings) -> tuple[Person, ...]:
    """Everyone, in an order that says nothing about the split."""
    pool = pools(settings)
    splits = [split for split, count in settings.sizes().items() for _ in range(count)]
    random.Random(f"{settings.seed}/splits").shuffle(splits)
    width = len(str(settings.people - 1))
    return tuple(
        _person(f"p{index:0{width}d}", split, name, pool, settings.seed)
        for index, (split, name) in enumerate(zip(splits, full_names(settings), strict=True))
    )


def _person(key: str, split: str, name: str, pool: Pools, seed: int) -> Person:
    rng = random.Random(f"{seed}/{key}")
    pronoun = rng.choice(PRONOUNS)
    values = {attribute: rng.choice(choices) for attribute, choices in pool.values.items()}
    if "employer_city" in values:
        values["employer_city"] = pool.seat[values["employer"]]
    return Person(key, split, name, pronoun, values)
