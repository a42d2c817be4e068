"""Result: one kernel on one cell of the sweep, and what follows from its time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from omniq.bench.samples import Timing
from omniq.spec import LinearSpec

PEERS = {"vs_float32": "torch float32", "vs_bfloat16": "torch bfloat16", "vs_int4": "torch int4"}
"""Column of a speed-up -> the entrant it is measured against."""


@dataclass(frozen=True)
class Cell:
    """One point of the sweep: a scheme, a weight (N, K), M rows of input of a type. cache: 'in' or 'out' of it."""

    spec: LinearSpec
    n: int
    k: int
    m: int
    dtype: str
    device: str
    cache: str

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.n * self.k


@dataclass(frozen=True)
class Limit:
    """What the machine does at most: bytes and operations in a second."""

    bandwidth: float
    rate: float


@dataclass(frozen=True)
class Result:
    """A row of the table; the figures are None where `reason` says why the kernel did not run.

    seconds: median of one call. spread: distance of the samples' quartiles over the median. gbps, tflops: reached, over
    the bytes of weight, input and output. fraction: the time that the limits allow over the time taken; bound: the
    limit that allows less. vs_...: how many times faster than torch.
    """

    kernel: str
    scheme: str
    n: int
    k: int
    m: int
    dtype: str
    device: str
    cache: str
    seconds: float | None = None
    spread: float | None = None
    samples: int | None = None
    nbytes: int | None = None
    gbps: float | None = None
    tflops: float | None = None
    limit_gbps: float | None = None
    limit_tflops: float | None = None
    fraction: float | None = None
    bound: str | None = None
    vs_float32: float | None = None
    vs_bfloat16: float | None = None
    vs_int4: float | None = None
    reason: str = ""

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return 2 * self.m * self.n * self.k / self.nbytes


COLUMNS = tuple(field.name for field in fields(Result))


def refused(cell: Cell, kernel: str, reason: str) -> Result:
    """The row of a kernel that does not run this cell."""
    return Result(kernel, **place(cell), reason=reason)


def measured(
    cell: Cell, kernel: str, dtype: str, nbytes: int, taken: Timing, limit: Limit, peers: dict[str, float]
) -> Result:
    """The row of a kernel. nbytes: of weight, input and output. peers: seconds of torch's ways, by entrant."""
    seconds = taken.median
    by_memory, by_products = nbytes / limit.bandwidth, cell.operations / limit.rate
    return Result(
        kernel,
        **place(cell) | {"dtype": dtype},
        seconds=seconds,
        spread=taken.spread,
        samples=taken.samples,
        nbytes=nbytes,
        gbps=nbytes / seconds / 1e9,
        tflops=cell.operations / seconds / 1e12,
        limit_gbps=limit.bandwidth / 1e9,
        limit_tflops=limit.rate / 1e12,
        fraction=max(by_memory, by_products) / seconds,
        bound="memory" if by_memory >= by_products else "products",
        **{column: peers[name] / seconds for column, name in PEERS.items() if name in peers},
    )


def place(cell: Cell) -> dict[str, Any]:
    """The columns that say what was run."""
    return {
        "scheme": str(cell.spec),
        "n": cell.n,
        "k": cell.k,
        "m": cell.m,
        "dtype": cell.dtype,
        "device": cell.device,
        "cache": cell.cache,
    }
