"""Classes: what a probe is asked to tell apart, made of the answers to one kind of question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FEWEST_TRAINED = 20
"""Examples that a probe must have to learn from."""

FEWEST_OF_CLASS = 3
"""Training examples of a class; rarer ones are left out."""

MOST_WORDS = 6
"""Answers that are longer on average are sentences, not names of classes."""

MOST_COMMON = 0.9
"""If more of the training examples are of one class, there is nothing to tell apart."""

MONTH = re.compile(
    r"\b(january|february|march|april|may|june|july|august|september|october|november|december)\b", re.IGNORECASE
)


def month(answer: str) -> str:
    """The month in a date, '' where there is none."""
    found = MONTH.search(answer)
    return found[0] if found else ""


def last_word(answer: str) -> str:
    """The last word."""
    return answer.split()[-1] if answer.split() else ""


def first_word(answer: str) -> str:
    """The first word."""
    return answer.split()[0] if answer.split() else ""


PARTS: dict[str, Callable[[str], str]] = {
    "whole answer": str,
    "month": month,
    "last word": last_word,
    "first word": first_word,
}
"""What of an answer can be its class, in order of preference: dates of which hardly two are alike give their month."""


@dataclass(frozen=True)
class Classes:
    """names: of the K classes, sorted. labels: one per answer, None where its class is too rare. part: of PARTS."""

    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    part: str


def classes_of(answers: Sequence[str], trained: Sequence[bool]) -> Classes | str:
    """The classes of answers, of which those `trained` is True for are to learn from; or why they have none."""
    taught = [answer for answer, own in zip(answers, trained, strict=True) if own]
    if len(taught) < FEWEST_TRAINED:
        return f"a probe needs {FEWEST_TRAINED} retained people to learn from and there are {len(taught)}"
    if sum(len(answer.split()) for answer in taught) > MOST_WORDS * len(taught):
        return "the answers are sentences, not classes that a probe could tell apart"
    for part, of in PARTS.items():
        words = [of(answer).strip(" .,").casefold() for answer in answers]
        names = frequent([word for word, own in zip(words, trained, strict=True) if own])
        if names:
            places = {name: place for place, name in enumerate(names)}
            return Classes(names, tuple(places.get(word) for word in words), part)
    return f"too few of the {len(taught)} answers to learn from are alike, or nearly all are"


def frequent(words: Sequence[str]) -> tuple[str, ...]:
    """The words that can be classes, sorted; () where they are one, cover less than half, or one is nearly all."""
    counts = {word: count for word, count in Counter(words).items() if word and count >= FEWEST_OF_CLASS}
    covered = sum(counts.values())
    if len(counts) < 2 or covered < max(FEWEST_TRAINED, len(words) / 2) or max(counts.values()) > MOST_COMMON * covered:
        return ()
    return tuple(sorted(counts))
