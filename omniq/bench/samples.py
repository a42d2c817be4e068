"""Times of several ways to do the same, taken in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from omniq.errors import UsageError

Call = Callable[[], object]
Clock = Callable[[], float]
Runner = Callable[[int], float]
"""How often -> the seconds that so many calls took."""

MIN_ROUNDS = 3
SAMPLE_SECONDS = 2e-3
"""Long against the clock and a cold start, short against what disturbs a shared machine."""
MOST_CALLS = 10_000
GRAPH_CALLS = 20


@dataclass(frozen=True)
class Timing:
    """median: seconds of one call. spread: distance of the quartiles over the median. samples: how many were taken."""

    median: float
    spread: float
    samples: int


def clock_named(name: str, threads: int) -> Clock:
    """'wall', or 'cpu': the time of the processors over the threads, which leaves out what others take from them."""
    if name not in ("wall", "cpu"):
        raise UsageError(f"--clock is {name!r}; use wall or cpu")
    return time.perf_counter if name == "wall" else lambda: time.process_time() / threads


def timing(seconds: Sequence[float]) -> Timing:
    """Seconds of one call, sampled several times -> Timing."""
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, (high - low) / median if median else 0.0, len(seconds))


def interleaved(runners: Mapping[str, Runner], seconds: float) -> dict[str, Timing]:
    """Samples every runner in turn, until `seconds` are used up and each has MIN_ROUNDS samples."""
    counts = {name: calls_per_sample(run) for name, run in runners.items()}
    found: dict[str, list[float]] = {name: [] for name in runners}
    spent, rounds = 0.0, 0
    while runners and (spent < seconds or rounds < MIN_ROUNDS):
        for name, run in runners.items():
            took = run(counts[name])
            found[name].append(took / counts[name])
            spent += took
        rounds += 1
    return {name: timing(values) for name, values in found.items()}


def calls_per_sample(run: Runner) -> int:
    """Calls that fill SAMPLE_SECONDS, after one that warms up."""
    run(1)
    once = run(1)
    return max(1, min(MOST_CALLS, round(SAMPLE_SECONDS / once))) if once > 0 else MOST_CALLS


def host_runner(calls: Sequence[Call], clock: Clock, warm: bool) -> Runner:
    """Goes round `calls` on the CPU. warm: makes one call outside the time first, which brings back the cache."""
    order = cycle(calls)

    def run(count: int) -> float:
        if warm:
            next(order)()
        picked = list(islice(order, count))
        start = clock()
        for call in picked:
            call()
        return clock() - start

    return run


def graph_runner(calls: Sequence[Call], device: torch.device) -> Runner:
    """Goes round `calls` in a CUDA graph, so that no time of the host is counted."""
    size = max(len(calls), GRAPH_CALLS)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in islice(cycle(calls), size):
            call()

    def run(count: int) -> float:
        replays = -(-count // size)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / (replays * size) * count

    return run


def runner(calls: Sequence[Call], device: torch.device, clock: Clock, warm: bool) -> Runner:
    """The way to time `calls` on this kind of device."""
    return graph_runner(calls, device) if device.type == "cuda" else host_runner(calls, clock, warm)
