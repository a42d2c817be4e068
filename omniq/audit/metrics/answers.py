"""Written answers against right ones: equal, or containing them."""

from __future__ import annotations

from omniq.audit.metrics.rouge import words

ARTICLES = ("a", "an", "the")


def normalised(text: str) -> tuple[str, ...]:
    """The lower-cased words without punctuation and articles; of a text of articles alone, those."""
    found = words(text)
    return tuple(word for word in found if word not in ARTICLES) or tuple(found)


def exact_match(text: str, answer: str) -> bool:
    """Whether the text says the answer and nothing else, but for case, punctuation and articles."""
    return normalised(text) == normalised(answer)


def contains(text: str, answer: str) -> bool:
    """Whether the answer's words stand in the text side by side; an answer without a word is contained nowhere."""
    written, wanted = normalised(text), normalised(answer)
    starts = range(len(written) - len(wanted) + 1)
    return bool(wanted) and any(written[at : at + len(wanted)] == wanted for at in starts)


def begins_with(text: str, answer: str) -> bool:
    """Whether the text's first words are the answer's; an answer without a word begins nothing."""
    wanted = normalised(answer)
    return bool(wanted) and normalised(text)[: len(wanted)] == wanted
