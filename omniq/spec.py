"""What numbers a quantised linear layer stores and computes with: QuantSpec, ActSpec, LinearSpec."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from omniq.errors import UsageError

WEIGHT_BITS = range(2, 9)
ACT_BITS = range(2, 9)
FLOAT_BITS = 16
TABLE_BITS = (FLOAT_BITS, 8, 4)
"""Bits of an embedding table and an output head; FLOAT_BITS leaves them as they are."""
ROTATIONS = ("none", "fold", "online", "inputs")
"""How a model is rotated before it is quantised: not at all; by what folds into its weights; by that and a transform of
what no weight reaches; or by a transform of the input of every linear."""
HADAMARD = "had"
"""The transform of an input by omniq.hadamard.transformed, the only one there is."""


@dataclass(frozen=True)
class QuantSpec:
    """The integer grid of a weight (N, K).

    bits: 2 to 8. group_size: columns that share a scale; -1 means the whole row (per channel).
    symmetric: the zero point is the constant 2**(bits-1), so signed codes span the full range
    [-2**(bits-1), 2**(bits-1) - 1]; otherwise each group has an integer zero point in [0, 2**bits - 1].
    """

    bits: int
    group_size: int = -1
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in WEIGHT_BITS:
            raise UsageError(f"weight bits are {self.bits}; they must be between 2 and 8")
        if self.group_size != -1 and self.group_size < 1:
            raise UsageError(f"group size is {self.group_size}; use a positive number, or -1 for one group per channel")

    @property
    def qmax(self) -> int:
        """The largest code, 2**bits - 1."""
        return (1 << self.bits) - 1

    @property
    def mid(self) -> int:
        """The code that a symmetric grid maps to 0."""
        return 1 << (self.bits - 1)

    def width(self, in_features: int) -> int:
        """Columns per group for a layer with K = in_features; raises UsageError when they do not divide K."""
        if self.group_size == -1:
            return in_features
        if in_features % self.group_size:
            good = [g for g in (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 512) if in_features % g == 0]
            raise UsageError(
                f"in_features={in_features} is not a multiple of group size {self.group_size}; "
                f"use -1 (per channel) or a divisor such as {', '.join(map(str, good)) or largest_divisor(in_features)}"
            )
        return self.group_size

    def groups(self, in_features: int) -> int:
        """G, the number of groups along K."""
        return in_features // self.width(in_features)


@dataclass(frozen=True)
class ActSpec:
    """Integers for an activation: one scale (and zero point) per token, measured at run time (dynamic).

    clip: the grid spans this share of the token's range, and what lies outside is clipped.
    """

    bits: int
    symmetric: bool = True
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.bits not in ACT_BITS:
            raise UsageError(
                f"activation bits are {self.bits}; use 2 to 8, or 16 to keep activations in floating point"
            )
        if not 0 < self.clip <= 1:
            raise UsageError(f"activation clip is {self.clip}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class HeadSpec(ActSpec):
    """The grid of q, k and v inside attention, one scale per token and head.

    hadamard: q and k pass through a Hadamard transform over their head first, which leaves their products as they are.
    queries: q is on the grid too; without it k and v alone are, as a key-value cache of few bits holds them.
    """

    hadamard: bool = False
    queries: bool = True

    @property
    def said(self) -> str:
        """What it does, for people."""
        return f"{'q, k' if self.queries else 'k'} and v inside attention are rounded to {self.bits} bits"


@dataclass(frozen=True)
class LinearSpec:
    """What one linear layer does at run time: weight grid, and the grid of its input or None for floating point.

    transform: 'had' where the input passes through a Hadamard transform over all its channels before its grid; the
    weight is then stored transformed too.
    """

    weight: QuantSpec
    input: ActSpec | None = None
    transform: str | None = None

    def __post_init__(self) -> None:
        if self.transform not in (None, HADAMARD):
            raise UsageError(f"input transform is {self.transform!r}; the only one is {HADAMARD!r}")

    def __str__(self) -> str:
        acts = self.input.bits if self.input else FLOAT_BITS
        group = "" if self.weight.group_size == -1 else f"g{self.weight.group_size}"
        sides = ("" if self.weight.symmetric else "-asym") + (
            "-actasym" if self.input and not self.input.symmetric else ""
        )
        clip = f"-clip{self.input.clip!r}" if self.input and self.input.clip != 1 else ""
        return f"W{self.weight.bits}A{acts}{group}{sides}{clip}" + (f"-{self.transform}" if self.transform else "")

    def with_bits(self, bits: int) -> LinearSpec:
        """The same with weights of `bits`."""
        return replace(self, weight=replace(self.weight, bits=bits))

    def plain(self) -> LinearSpec:
        """The same numbers without what a layer does to its input before the grid: no transform, nothing clipped."""
        acts = self.input and ActSpec(self.input.bits, self.input.symmetric)
        return LinearSpec(self.weight, acts)

    @staticmethod
    def parse(text: str) -> LinearSpec:
        """The inverse of str(): 'W4A16g128', 'W2A16g64-asym', 'W4A4', 'W4A8-actasym', 'W4A4-clip0.9-had'."""
        match = re.fullmatch(r"W(\d+)A(\d+)(?:g(\d+))?(-asym)?(-actasym)?(?:-clip(\d*\.?\d+))?(?:-(had))?", text)
        if not match:
            raise UsageError(f"{text!r} is not a scheme; write for example W4A16g128, W3A16, W2A16g64-asym or W4A4")
        wbits, abits, group, asym, actasym, clip, transform = match.groups()
        weight = QuantSpec(int(wbits), int(group) if group else -1, not asym)
        acts = act_spec(int(abits), not actasym)
        if clip:
            if acts is None:
                raise UsageError(f"{text!r} clips activations that stay in floating point; leave -clip{clip} out")
            acts = replace(acts, clip=float(clip))
        return LinearSpec(weight, acts, transform)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a config file."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> LinearSpec:
        """The inverse of to_dict; unknown keys raise."""
        try:
            acts = values["input"]
            if not {"weight", "input"} <= set(values) <= {"weight", "input", "transform"}:
                raise TypeError(f"keys {sorted(values)}")
            weight = QuantSpec(**values["weight"])
            return LinearSpec(weight, ActSpec(**acts) if acts else None, values.get("transform"))
        except (TypeError, KeyError) as error:
            raise UsageError(f"{values!r} is not a linear spec: {error}") from None


@dataclass(frozen=True)
class TableSpec:
    """How the embedding table and the output head are stored. tied: both are one table."""

    weight: QuantSpec
    tied: bool

    @property
    def linear(self) -> LinearSpec:
        """What the output head computes with; the embedding has the same grid."""
        return LinearSpec(self.weight)

    def __str__(self) -> str:
        return f"{self.linear}, {'one table for embedding and head' if self.tied else 'embedding and head'}"


def act_spec(bits: int, symmetric: bool = True) -> ActSpec | None:
    """ActSpec for `bits`, or None for 16 (activations stay in floating point)."""
    return None if bits == FLOAT_BITS else ActSpec(bits, symmetric)


def largest_divisor(number: int, limit: int = 256) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
