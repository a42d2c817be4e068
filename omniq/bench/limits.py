"""What this machine can do at most: bytes read in a second, operations of matrix products in a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from omniq.bench.samples import Call, Clock, Timing, interleaved, runner

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHE = 32 * 2**20
OUT_OF_CACHE = 3
"""Bytes gone through, in sizes of the last-level cache, so that none is found there the next time."""
PRODUCT = {"cpu": (512, 2048, 2048), "cuda": (8192, 8192, 8192)}
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INTEGER = "int8"


def last_level_cache(device: torch.device, root: Path = CACHES) -> int:
    """Bytes of the last cache before memory; a usual size where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [kilobytes(file.read_text()) for file in root.glob("index*/size")]
    return max(sizes, default=USUAL_CACHE)


def kilobytes(text: str) -> int:
    """'32768K' or '32M' -> bytes."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text.strip().rstrip("KMG")) * units.get(text.strip()[-1], 1)


def memory_calls(nbytes: int, device: torch.device) -> dict[str, tuple[list[Call], int]]:
    """Name -> calls that move memory over buffers of `nbytes` in all, and the bytes that one call moves."""
    values = torch.ones(max(2, nbytes // 8), dtype=torch.int64, device=device)
    half = len(values) // 2
    source, target = values[:half], values[half : 2 * half]
    return {
        "read": ([values.sum], values.nbytes),
        "copy": ([lambda: target.copy_(source)], 2 * source.nbytes),
    }


def bandwidth(timings: Mapping[str, Timing], moved: Mapping[str, int]) -> float:
    """Bytes a second of the faster of the ways to move memory."""
    return max(nbytes / timings[name].median for name, nbytes in moved.items())


def matmul_rates(device: torch.device, clock: Clock, seconds: float) -> dict[str, float]:
    """Operations a second of torch's own matrix product, by the type of its operands, int8 among them."""
    m, n, k = PRODUCT[device.type]
    x, w = torch.randn(m, k, device=device), torch.randn(n, k, device=device)
    calls = {name: product(x.to(dtype), w.to(dtype)) for name, dtype in FLOATS.items()}
    calls[INTEGER] = integer_product(x.mul(32).to(torch.int8), w.mul(32).to(torch.int8))
    runners = {name: runner([call], device, clock, warm=False) for name, call in calls.items()}
    return {name: 2 * m * n * k / taken.median for name, taken in interleaved(runners, seconds).items()}


def product(x: Tensor, w: Tensor) -> Call:
    """x (M, K), w (N, K) -> a call that multiplies them."""
    return lambda: torch.nn.functional.linear(x, w)


def integer_product(x: Tensor, w: Tensor) -> Call:
    """x (M, K), w (N, K) int8 -> a call that multiplies them into int32."""
    return lambda: torch._int_mm(x, w.T)


def roof(rates: Mapping[str, float], integer: bool) -> float:
    """Operations a second at most: of floating-point products, and of int8 ones where the input is made integer."""
    return max(rate for name, rate in rates.items() if integer or name != INTEGER)
