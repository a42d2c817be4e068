"""Whether right choices are more than luck."""

from __future__ import annotations

import math


def p_by_luck(right: int, asked: int, chance: float) -> float:
    """The probability of at least `right` right answers of `asked` when each is right with this chance, 0 < it < 1."""
    return min(1.0, sum(binomial(count, asked, chance) for count in range(right, asked + 1)))


def binomial(right: int, asked: int, chance: float) -> float:
    """The probability of exactly so many."""
    ways = math.lgamma(asked + 1) - math.lgamma(right + 1) - math.lgamma(asked - right + 1)
    return math.exp(ways + right * math.log(chance) + (asked - right) * math.log1p(-chance))
