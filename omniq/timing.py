"""How long work takes on this machine: what it costs, over rates that are measured in a fraction of a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch

ROWS, WIDTH, VALUES = 512, 1024, 2**24
PROBE_SECONDS = 0.2


@dataclass(frozen=True)
class Cost:
    """Amounts of work: operations of matrix products, those in float32, and values that elementwise passes touch."""

    products: float = 0.0
    float32: float = 0.0
    passes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Cost:
        return Cost(*(a * times for a in astuple(self)))

    def seconds(self, rates: Cost) -> float:
        """The time this takes where `rates` of it are done in a second."""
        return sum(amount / rate for amount, rate in zip(astuple(self), astuple(rates), strict=True))


def rates(device: torch.device, fast: torch.dtype | None) -> Cost:
    """What `device` does in a second just now; products are made in `fast`, None stands for float32."""
    x, w = torch.randn(ROWS, WIDTH, device=device), torch.randn(WIDTH, WIDTH, device=device)
    values = torch.randn(VALUES, device=device)
    operations = 2 * ROWS * WIDTH * WIDTH
    float32 = operations / _duration(lambda: x @ w, device)
    low = (x.to(fast), w.to(fast)) if fast else None
    products = operations / _duration(lambda: low[0] @ low[1], device) if low else float32
    return Cost(products, float32, 3 * VALUES / _duration(lambda: (values / 3).round().clamp(-8, 7), device))


def _duration(work: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of one call, after a first that warms up."""
    calls = 0
    for _ in range(2):
        work()
    _finish(device)
    began = time.perf_counter()
    while time.perf_counter() - began < PROBE_SECONDS:
        work()
        _finish(device)
        calls += 1
    return (time.perf_counter() - began) / calls


def _finish(device: torch.device) -> None:
    """Waits for what a GPU has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
