"""Plan and Report: what a quantisation run is going to do, and what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What `omniq quantize --dry-run` prints; nothing but the model's headers has been read.

    Sizes and memory are bytes. blocks, linears, parameters: how many the model has. work_bytes: disk used meanwhile.
    seconds: what the run takes on this machine, to within a factor of two or so. loaders: the runtimes that will load
    the result, one sentence each. notes: what else the user should know. tables: how embedding and head
    are to be quantised. device_memory: on an accelerator, 0 without one. lives: where things are meanwhile, a sentence
    each.
    """

    model: str
    scheme: str
    blocks: int
    linears: int
    parameters: int
    bits_per_weight: float
    size_before: int
    size_after: int
    peak_memory: int
    work_bytes: int
    seconds: float
    loaders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tables: str | None = None
    device_memory: int = 0
    lives: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What one run produced. Sizes and memory are bytes.

    bits_per_weight: of what is quantised. skipped_steps: training steps left out as not finite. verified: the written
    files were read back and compared. ppl_original to protocol: None unless an evaluation text was given; kl: mean nats
    per token from the original to the quantised model; top1: share of tokens with the same best guess. tables: how
    embedding and head are quantised, None where they are not. allocation: how many linears have which bits, and the
    average; None where all have the same.
    """

    out: str
    scheme: str
    preset: str
    bits_per_weight: float
    size_before: int
    size_after: int
    seconds: float
    peak_memory: int
    skipped_steps: int
    loaders: tuple[str, ...]
    verified: bool
    ppl_original: float | None = None
    ppl: float | None = None
    kl: float | None = None
    top1: float | None = None
    protocol: str | None = None
    tables: str | None = None
    allocation: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
