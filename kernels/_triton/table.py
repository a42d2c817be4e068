"""Tile sizes by compute capability and number of tokens, as plain data. Nothing is tuned at run time.

Chosen from what the compiler makes of each, not from timings: no spills in the loop, fewest instructions a weight, and
enough bytes on their way (an H200 multiprocessor needs about 24 KB) from the programs that fit its shared memory.
tests/test_triton_aot.py holds every entry to that. A capability that is not listed takes the column of the largest
listed one below it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tile:
    """One program: `rows` of the weight times `tokens`. `resident`: programs a multiprocessor should be given."""

    rows: int
    tokens: int
    warps: int
    stages: int
    resident: int


Choices = tuple[Tile, ...]
"""Ascending in tokens: the first that holds all tokens is taken, else the last."""


@dataclass(frozen=True)
class Column:
    """One capability.

    floats: float activations. groups, channels: integer activations, with a scale per group and per channel.
    expand_from: the number of tokens from which expanding the weight for torch's matmul is thought to beat `floats`.
    """

    floats: Choices
    groups: Choices
    channels: Choices
    expand_from: int


# Two warps: the compiler then takes the warp-wide instruction on Hopper too, without its fences.
FEW = (Tile(64, 8, 2, 4, 6), Tile(64, 16, 2, 4, 6), Tile(64, 32, 2, 4, 6))
HOPPER = Column(
    floats=(Tile(64, 8, 2, 4, 5), Tile(64, 16, 2, 4, 4), Tile(64, 32, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    groups=(*FEW, Tile(128, 64, 4, 4, 2), Tile(128, 128, 8, 3, 1)),
    channels=(*FEW, Tile(128, 64, 4, 4, 2), Tile(256, 128, 8, 3, 1)),
    expand_from=384,
)
AMPERE = Column(
    floats=(Tile(64, 8, 2, 4, 4), Tile(64, 16, 2, 4, 3), Tile(64, 32, 2, 3, 3), Tile(128, 64, 8, 3, 1)),
    groups=(*FEW, Tile(128, 64, 8, 4, 1)),
    channels=(*FEW, Tile(128, 64, 4, 4, 2), Tile(128, 128, 8, 3, 1)),
    expand_from=384,
)
# At most 99 KB of shared memory a program.
SMALL = Column(
    floats=(Tile(64, 8, 2, 4, 2), Tile(64, 16, 2, 4, 2), Tile(64, 32, 2, 3, 2), Tile(64, 64, 4, 2, 2)),
    groups=AMPERE.groups,
    channels=AMPERE.channels,
    expand_from=384,
)
COLUMNS: dict[tuple[int, int], Column] = {
    (8, 0): AMPERE,
    (8, 6): SMALL,
    (8, 7): AMPERE,
    (8, 9): SMALL,
    (9, 0): HOPPER,
    (12, 0): replace(SMALL, floats=(*SMALL.floats[:2], Tile(64, 32, 4, 3, 2), SMALL.floats[3])),
}


def column(capability: tuple[int, int]) -> Column:
    """The column of this capability, or of the largest listed one below it."""
    below = [known for known in COLUMNS if known <= capability]
    return COLUMNS[max(below, default=min(COLUMNS))]


def tile(choices: Choices, tokens: int) -> Tile:
    """The tile for this number of tokens."""
    return next((tile for tile in choices if tokens <= tile.tokens), choices[-1])


def shares(tile: Tile, rows: int, tokens: int, tiles: int, multiprocessors: int) -> int:
    """Tiles of K per program: as many programs share a result as fill the device, of 2 * stages tiles or more."""
    blocks = -(-rows // tile.rows) * -(-tokens // tile.tokens)
    wanted = multiprocessors * tile.resident // blocks
    splits = max(1, min(wanted, tiles // (2 * tile.stages), 16))
    return -(-tiles // splits)
