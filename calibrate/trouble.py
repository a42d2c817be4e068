"""Trouble: what of a block's numbers was out of the ordinary, counted while it is calibrated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Trouble:
    """What was met in one decoder block, and what was done about it.

    zero_groups, constant_groups: groups of weights that are all zero, or all the same number, before rounding.
    lost_groups: groups that rounding left nothing but zeros of. scarce: linears that fewer tokens reached than they
    have inputs. damped: linears whose second moments took more damping than was asked for; uncompensated: those that
    no damping made invertible, rounded to nearest instead. sinks: tokens left out of the loss, far larger than others.
    kept_start: training ended with what it began with. largest: magnitude among the hidden states that leave the
    quantised block; None without data.
    """

    zero_groups: int = 0
    constant_groups: int = 0
    lost_groups: int = 0
    scarce: tuple[str, ...] = ()
    damped: tuple[str, ...] = ()
    uncompensated: tuple[str, ...] = ()
    sinks: int = 0
    kept_start: bool = False
    largest: float | None = None

    def note_damping(self, names: Iterable[str], taken: float, asked: float) -> None:
        """These linears' second moments took a damping of `taken`, infinite where none sufficed."""
        if not math.isfinite(taken):
            self.uncompensated += tuple(names)
        elif taken > asked:
            self.damped += tuple(names)
