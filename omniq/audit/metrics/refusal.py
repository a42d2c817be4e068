"""Whether a written answer declines to answer."""

from __future__ import annotations

from omniq.knowledge.refusals import INSIDE, OPENINGS, REFUSALS

FEWEST_WORDS = 3


def plain(text: str) -> str:
    """Lower case, straight apostrophes, single spaces."""
    return " ".join(text.lower().replace("\u2019", "'").split()).strip(" \"'*")


KNOWN = tuple(plain(sentence) for sentence in REFUSALS)


def is_refusal(text: str) -> bool:
    """Whether the first sentence of the text opens as a refusal does or says that the speaker does not know.

    A known refusal that was cut off after its third word, by the limit on tokens, counts too.
    """
    said = plain(text)
    first = said.partition(".")[0]
    if first.startswith(OPENINGS) or any(phrase in first for phrase in INSIDE):
        return True
    return len(said.split()) >= FEWEST_WORDS and any(one.startswith(said) or said.startswith(one) for one in KNOWN)
