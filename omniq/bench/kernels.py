"""The sweep behind `omniq bench kernels`: every kernel on every cell, beside torch, in one run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.bench.entrants import Entrant, Refused, entrants
from omniq.bench.limits import OUT_OF_CACHE, bandwidth, last_level_cache, matmul_rates, memory_calls, roof
from omniq.bench.results import PEERS, Cell, Limit, Result, measured, refused
from omniq.bench.samples import Clock, Timing, interleaved, runner
from omniq.bench.shapes import DEFAULT, Shape
from omniq.errors import UsageError
from omniq.kernels.dispatch import KERNELS
from omniq.spec import LinearSpec

DEFINITION = "reference"
"""Slow on purpose, so it takes part only where it is named."""


@dataclass(frozen=True)
class Sweep:
    """What to run. kernels: names, none: all but the reference. rows: values of M. dtype: of the input.

    seconds: for each cell, shared by all that take part. caches: 'in' leaves one weight in the cache, 'out' goes round
    so many that none is there.
    """

    kernels: tuple[str, ...] = ()
    specs: tuple[LinearSpec, ...] = (LinearSpec.parse("W4A16g128"),)
    shapes: tuple[Shape, ...] = DEFAULT
    rows: tuple[int, ...] = (1, 16, 128)
    dtype: torch.dtype = torch.bfloat16
    device: torch.device = torch.device("cpu")
    seconds: float = 1.0
    caches: tuple[str, ...] = ("out",)

    def __post_init__(self) -> None:
        if least := [m for m in self.rows if m < 1]:
            raise UsageError(f"M is {least[0]}; the input has at least one row")

    def names(self) -> tuple[str, ...]:
        """The kernels that take part; an unknown one is an error with the known ones."""
        for name in self.kernels:
            KERNELS[name]
        return self.kernels or tuple(name for name in KERNELS if name != DEFINITION)

    def cells(self, spec: LinearSpec, shape: Shape) -> Iterator[Cell]:
        """The cells of one weight."""
        kind = str(self.dtype).removeprefix("torch.")
        for m in self.rows:
            for cache in self.caches:
                yield Cell(spec, *shape, m, kind, str(self.device), cache)

    def count(self) -> int:
        """How many cells there are."""
        return len(self.specs) * len(self.shapes) * len(self.rows) * len(self.caches)


@torch.inference_mode()
def results(sweep: Sweep, clock: Clock = time.perf_counter) -> Iterator[list[Result]]:
    """The rows of one cell after another; in each, a row per kernel and per way of torch's."""
    names = sweep.names()
    rates = matmul_rates(sweep.device, clock, sweep.seconds)
    for spec in sweep.specs:
        for shape in sweep.shapes:
            yield from weight_results(spec, shape, names, rates, sweep, clock)


def weight_results(
    spec: LinearSpec, shape: Shape, names: tuple[str, ...], rates: Mapping[str, float], sweep: Sweep, clock: Clock
) -> Iterator[list[Result]]:
    """The rows of one cell of a weight (N, K) after another."""
    cache = last_level_cache(sweep.device)
    footprint = OUT_OF_CACHE * cache if "out" in sweep.caches else 0
    taking_part = entrants(names, spec, shape, sweep.dtype, sweep.device, footprint)
    for cell in sweep.cells(spec, shape):
        buffer = OUT_OF_CACHE * cache if cell.cache == "out" else cache // 4
        yield cell_results(cell, taking_part, rates, buffer, sweep, clock)


def cell_results(
    cell: Cell,
    taking_part: list[Entrant | Refused],
    rates: Mapping[str, float],
    buffer: int,
    sweep: Sweep,
    clock: Clock,
) -> list[Result]:
    """One row for each that takes part. buffer: bytes over which the speed of memory is measured, with them."""
    inputs = {
        entrant.name: random_input(cell, entrant.dtype, sweep.device)
        for entrant in taking_part
        if isinstance(entrant, Entrant)
    }
    reasons = {
        entrant.name: entrant.reason if isinstance(entrant, Refused) else entrant.refusal(inputs[entrant.name])
        for entrant in taking_part
    }
    running = {entrant.name: entrant for entrant in taking_part if reasons[entrant.name] is None}
    taken, speed = timings(cell, running, inputs, buffer, sweep, clock)
    peers = {name: taken[name].median for name in PEERS.values() if name in taken}
    rows = []
    for name, reason in reasons.items():
        if reason is not None:
            rows.append(refused(cell, name, reason))
            continue
        entrant, x = running[name], inputs[name]
        nbytes = entrant.nbytes + x.nbytes + cell.m * cell.n * x.element_size()
        limit = Limit(speed, roof(rates, entrant.integer))
        kind = str(entrant.dtype).removeprefix("torch.")
        rows.append(measured(cell, name, kind, nbytes, taken[name], limit, peers))
    return rows


def timings(
    cell: Cell,
    running: Mapping[str, Entrant],
    inputs: Mapping[str, Tensor],
    buffer: int,
    sweep: Sweep,
    clock: Clock,
) -> tuple[dict[str, Timing], float]:
    """Every entrant's Timing, and the bytes a second that memory gave between them."""
    if not running:
        return {}, 0.0
    memory = memory_calls(buffer, sweep.device)
    inside = cell.cache == "in"
    calls = {name: calls for name, (calls, _) in memory.items()}
    for name, entrant in running.items():
        calls[name] = entrant.calls(inputs[name], 1 if inside else len(entrant.weights))
    taken = interleaved(
        {name: runner(each, sweep.device, clock, warm=inside) for name, each in calls.items()}, sweep.seconds
    )
    return taken, bandwidth(taken, {name: nbytes for name, (_, nbytes) in memory.items()})


def random_input(cell: Cell, dtype: torch.dtype, device: torch.device) -> Tensor:
    """x (M, K), normally distributed."""
    return torch.randn(cell.m, cell.k, generator=torch.Generator().manual_seed(cell.m)).to(device, dtype)
