"""ROUGE-L: how much of a reference text is written, in the same order, by its longest common subsequence of words."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The lower-cased runs of letters and digits of any script; no stemming, as in MUSE."""
    return WORD.findall(text.lower())


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for left in a:
        diagonal = 0
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if left == right else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(text: str, reference: str) -> tuple[float, float]:
    """(recall, F1): the share of the reference's words, and its harmonic mean with the share of the text's words."""
    written, wanted = words(text), words(reference)
    common = common_length(written, wanted)
    if not common:
        return 0.0, 0.0
    return common / len(wanted), 2 * common / (len(written) + len(wanted))
