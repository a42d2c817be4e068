"""Bits for every linear under a budget: the least total loss there is, by dynamic programming with exact bounds.

A state is what a choice for the first few groups costs and loses. States that another beats in both are dropped, and
so are those whose bound (the linear relaxation of the groups still to come) is above a solution already known: neither
can end in anything better, so the result is optimal, while of the many combinations few are ever looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import accumulate, pairwise

from omniq.errors import UsageError
from omniq.models.adapter import Adapter, NormFold

SLACK = 1e-9
"""Relative room in comparing bounds, so that rounding in sums of losses never drops the best state."""

Option = tuple[int, float, int]
"""(bits spent by the group, its loss, bits of one weight)."""
Path = tuple["Path", int] | None


def allocate(
    weights: Sequence[int], losses: Sequence[Sequence[float]], choices: Sequence[int], average: float
) -> tuple[int, ...]:
    """Bits of each group that minimise the summed loss, with at most `average` bits for a weight.

    weights: how many weights each group has. losses: for each group its loss at each of `choices` (rising bits).
    """
    if not choices[0] <= average <= choices[-1]:
        raise UsageError(f"{average:g} bits on average are not between {choices[0]} and {choices[-1]}, the choices")
    limit = int(Fraction(repr(float(average))) * sum(weights))
    options = [
        _undominated([(bits * count, loss, bits) for bits, loss in zip(choices, row, strict=True)])
        for count, row in zip(weights, losses, strict=True)
    ]
    bounds = [_Bound(options[index:]) for index in range(len(options) + 1)]
    enough = bounds[0].reached(limit) + SLACK * bounds[0].start
    states: list[tuple[int, float, Path]] = [(0, 0.0, None)]
    for group, rest in zip(options, bounds[1:], strict=True):
        grown = [
            (spent + cost, lost + loss, (path, bits)) for spent, lost, path in states for cost, loss, bits in group
        ]
        states = _undominated([s for s in grown if s[1] + rest.least(limit - s[0]) <= enough])
    return _picked(states[-1][2])


def _undominated(states: list) -> list:
    """(cost, loss, ...) by rising cost, each with a smaller loss than every cheaper one."""
    kept: list = []
    for state in sorted(states, key=lambda state: state[:2]):
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    return kept


def _picked(path: Path) -> tuple[int, ...]:
    """The bits along a path, first group first."""
    picked = []
    while path is not None:
        path, bits = path
        picked.append(bits)
    return tuple(reversed(picked))


class _Bound:
    """What some groups lose at the least within a budget when they may also mix two options."""

    def __init__(self, groups: Sequence[Sequence[Option]]) -> None:
        hulls = [_hull(options) for options in groups]
        steps = sorted((step for number, hull in enumerate(hulls) for step in _steps(number, hull)), key=lambda s: s[0])
        self.steps = steps
        self.cheapest = sum(hull[0][0] for hull in hulls)
        self.start = sum(hull[0][1] for hull in hulls)
        self.costs = [0, *accumulate(cost for _, cost, _, _ in steps)]
        self.losses = list(accumulate((gain for _, _, gain, _ in steps), initial=self.start))

    def least(self, room: int) -> float:
        """A lower bound of the loss with `room` bits to spend; infinite when even the cheapest options need more."""
        room -= self.cheapest
        if room < 0:
            return float("inf")
        index = bisect_right(self.costs, room) - 1
        if index == len(self.steps):
            return self.losses[-1]
        return self.losses[index] + self.steps[index][0] * (room - self.costs[index])

    def reached(self, room: int) -> float:
        """The loss of one allocation that fits: the best steps first, a group's only in order."""
        room, loss, stopped = room - self.cheapest, self.start, set()
        for _, cost, gain, number in self.steps:
            if number in stopped or cost > room:
                stopped.add(number)
                continue
            room, loss = room - cost, loss + gain
        return loss


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of (cost, loss), cheapest first."""
    hull: list[Option] = []
    for option in options:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _steps(number: int, hull: Sequence[Option]) -> list[tuple[float, int, float, int]]:
    """(change of the loss per bit, bits, change of the loss, group) of every step along a hull."""
    return [(_slope(a, b), b[0] - a[0], b[1] - a[1], number) for a, b in pairwise(hull)]


def fused_groups(
    names: Sequence[str], blocks: str, adapter: Adapter | None, seen: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], ...]:
    """The linears `names` (full names), those together that must have equal bits, in the order of their first member.

    Equal are linears that read the same tensor, by the table or as `seen` in a forward pass: runtimes fuse q, k and v,
    gate and up. Equal are all experts, of all layers: vLLM fuses those of a layer, and transformers reads one number
    format for the experts of a model.
    """
    known = set(names)
    together = [[n for n in group if n in known] for group in seen]
    indices = sorted({_index(name, blocks) for name in names})
    for index in indices if adapter else ():
        prefix = f"{blocks}.{index}."
        inside = [n for n in names if n.startswith(prefix)]
        for fold in adapter.folds:
            if isinstance(fold, NormFold):
                together.append([n for n in inside if any(fnmatchcase(n[len(prefix) :], p) for p in fold.linears)])
    together.append([n for n in names if is_expert(n, blocks)])
    return _merged(names, together)


def _index(name: str, blocks: str) -> int:
    """The block of a linear: 'model.layers.3.mlp.up_proj' -> 3."""
    return int(name.removeprefix(f"{blocks}.").partition(".")[0])


def is_expert(name: str, blocks: str) -> bool:
    """Whether a linear is one of several alike in a list inside its block."""
    return any(part.isdigit() for part in name.removeprefix(f"{blocks}.").split(".")[1:])


def _merged(names: Sequence[str], together: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The finest partition of `names` in which every set of `together` stays whole."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for group in together:
        for name in group[1:]:
            leader[find(name)] = find(group[0])
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(find(name), []).append(name)
    return tuple(map(tuple, members.values()))
