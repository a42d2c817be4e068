"""Which layers to look at, where there is no time for all of them."""

from __future__ import annotations


def spread(depth: int, most: int) -> tuple[int, ...]:
    """At most `most` of the block outputs 1 .. depth, evenly, the last among them; 0 takes all.

    The input of the first block is never among them: at the end of a prompt it is the same token for every question.
    """
    if most <= 0 or most >= depth:
        return tuple(range(1, depth + 1))
    return tuple(sorted({max(1, round(depth * place / most)) for place in range(1, most + 1)}))
