"""What long work, such as a quantisation or an audit, tells whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Calibration begins. resumed_at: first block still to do, 0 for a fresh run. description: one line for people."""

    blocks: int
    resumed_at: int
    description: str


@dataclass(frozen=True)
class BlockDone:
    """Block `index` of `blocks` (from 0) is finished and stored.

    loss_before, loss_after: its calibration loss at the start and at the end, None for a method that has none.
    skipped_steps: steps left out because their loss was not finite. met: what else was out of the ordinary, in a few
    words each. error: of the hidden states after the block, relative to their power; None without data. unreached: how
    many of its linears no token reached. peak_memory, device_peak: the most bytes that the process held so far, on the
    host and on an accelerator; None: not known, and none there.
    """

    index: int
    blocks: int
    seconds: float
    loss_before: float | None = None
    loss_after: float | None = None
    skipped_steps: int = 0
    met: tuple[str, ...] = ()
    error: float | None = None
    unreached: int = 0
    peak_memory: int | None = None
    device_peak: int | None = None


@dataclass(frozen=True)
class Notice:
    """A sentence the user should read."""

    text: str


@dataclass(frozen=True)
class Step:
    """Step `index` of `total` (from 1) of long work is finished after `seconds`; text: what it was, for people."""

    index: int
    total: int
    text: str
    seconds: float


Event = Started | BlockDone | Notice | Step
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that does nothing."""
