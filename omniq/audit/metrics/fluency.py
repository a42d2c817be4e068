"""Fluency: entropy of word pairs and triples, low where a text repeats itself."""

from __future__ import annotations

import math
from collections import Counter

WEIGHTS = {2: 1 / 3, 3: 2 / 3}
SHORTEST = 3


def ngram_entropy(words: list[str], n: int) -> float:
    """Entropy in bits of the distribution of the words' n-grams; 0 where there are none."""
    counts = Counter(zip(*(words[at:] for at in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def fluency(text: str) -> float:
    """One third of the entropy of pairs and two thirds of that of triples of words, in bits, as in RWKU.

    nan for fewer than three words, which say nothing about fluency.
    """
    words = text.split()
    if len(words) < SHORTEST:
        return math.nan
    return sum(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items())
