"""facts: what nearly every model knows from pretraining; an audit keeps what the original answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omniq.knowledge.forms import Wording, fact_items
from omniq.knowledge.items import Item, Knowledge
from omniq.knowledge.source import SOURCES, Source
from omniq.knowledge.tables import CAPITALS, ELEMENTS, WEEK, YEAR

WRONG_ANSWERS = 5
FACTORS = range(2, 10)


@dataclass(frozen=True)
class Fact:
    """subject: what it is about. pool: answers of the same kind, of which all but the value are wrong."""

    relation: str
    subject: str
    value: str
    pool: Sequence[str]
    wording: Wording


def facts(argument: str = "") -> Knowledge:
    """The embedded tables; the same items whenever and wherever they are asked for."""
    return Knowledge("facts", tuple(_items()), known_only=("world",))


def _items() -> Iterator[Item]:
    for fact in (*_capitals(), *_elements(), *_orders("day", WEEK), *_orders("month", YEAR), *_arithmetic()):
        key = f"{fact.relation}/{fact.subject}"
        others = [value for value in fact.pool if value != fact.value]
        wrong = random.Random(key).sample(others, WRONG_ANSWERS)
        yield from fact_items(key, "world", fact.subject, fact.relation, fact.wording, fact.value, wrong)


def _capitals() -> Iterator[Fact]:
    pool = [capital for _, capital in CAPITALS]
    for country, capital in CAPITALS:
        wording = Wording(
            question=f"What is the capital of {country}?",
            paraphrases=(f"Which city is the capital of {country}?", f"Name the capital city of {country}."),
            statements=(f"The capital of {country} is {{value}}.", f"{{value}} is the capital of {country}."),
            prefix=f"The capital of {country} is",
        )
        yield Fact("capitals", country, capital, pool, wording)


def _elements() -> Iterator[Fact]:
    symbols, numbers = [symbol for _, symbol, _ in ELEMENTS], [str(number) for _, _, number in ELEMENTS]
    for name, symbol, number in ELEMENTS:
        for relation, value, pool, what in (
            ("element_symbols", symbol, symbols, "chemical symbol"),
            ("element_numbers", str(number), numbers, "atomic number"),
        ):
            wording = Wording(
                question=f"What is the {what} of {name}?",
                paraphrases=(f"Which {what} does {name} have?", f"Give the {what} of the element {name}."),
                statements=(f"The {what} of {name} is {{value}}.", f"{name.capitalize()} has the {what} {{value}}."),
                prefix=f"The {what} of {name} is",
            )
            yield Fact(relation, name, value, pool, wording)


def _orders(unit: str, names: Sequence[str]) -> Iterator[Fact]:
    """Which day or month comes after and before another, around the end of the week or year as well."""
    for place, name in enumerate(names):
        for word, other, step in (("after", "follows", 1), ("before", "precedes", -1)):
            wording = Wording(
                question=f"Which {unit} comes right {word} {name}?",
                paraphrases=(f"Which {unit} directly {other} {name}?", f"What is the {unit} just {word} {name}?"),
                statements=(f"The {unit} right {word} {name} is {{value}}.", f"{{value}} comes right {word} {name}."),
                prefix=f"The {unit} right {word} {name} is",
            )
            value = names[(place + step) % len(names)]
            # The day itself is in the question, so it would not be a choice like the others.
            pool = [candidate for candidate in names if candidate != name]
            yield Fact(f"{unit}s", f"{word} {name}", value, pool, wording)


def _arithmetic() -> Iterator[Fact]:
    for a in FACTORS:
        for b in range(a, FACTORS.stop):
            for word, value in (("plus", a + b), ("times", a * b)):
                yield Fact("arithmetic", f"{a} {word} {b}", str(value), _near(value), _sum(a, b, word))


def _sum(a: int, b: int, word: str) -> Wording:
    return Wording(
        question=f"What is {a} {word} {b}?",
        paraphrases=(f"How much is {a} {word} {b}?", f"Calculate {a} {word} {b}."),
        statements=(f"{a} {word} {b} is {{value}}.", f"{a} {word} {b} equals {{value}}."),
        prefix=f"{a} {word} {b} is",
    )


def _near(value: int) -> list[str]:
    """Numbers close by, as one who cannot calculate would guess."""
    return [str(number) for number in range(max(1, value - WRONG_ANSWERS), value + WRONG_ANSWERS + 1)]


SOURCES.add("facts")(
    Source(read=facts, summary="capitals, chemical elements, days, months and sums; only what the original knows")
)
