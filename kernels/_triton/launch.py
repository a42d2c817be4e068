"""What the Triton kernels share on the host: checks before a launch, and what is known of the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

from omniq.kernels._triton.layout import expected
from omniq.kernels._triton.parts import summed
from omniq.kernels._triton.table import Column, column
from omniq.spec import LinearSpec

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
INTERPRETED = triton.knobs.runtime.interpret
"""Whether triton.jit makes interpreted functions: settled when the kernels are imported, as it is for Triton itself."""
FAST = not INTERPRETED and torch.version.hip is None
"""Whether unpacking is written in PTX; other compilers and the interpreter take shifts and masks."""
SUM_BLOCK = 1024
INTERPRETED_DEVICE = ((9, 0), 4)


def device_reason(device: torch.device) -> str | None:
    """Why Triton kernels cannot run there, or None."""
    return None if device.type == "cuda" else f"runs on CUDA, not {device.type}"


def profile(device: torch.device) -> tuple[Column, int]:
    """(its column of the table, number of multiprocessors). torch keeps both: nothing waits for the device."""
    if device.type != "cuda":
        capability, count = INTERPRETED_DEVICE
        return column(capability), count
    known = torch.cuda.get_device_properties(device)
    return column((known.major, known.minor)), known.multi_processor_count


def on(device: torch.device) -> AbstractContextManager:
    """Makes `device` the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, element: int) -> None:
    """Raises where x (M, K) or the packed tensors are not what the kernel will read. Looks at no element."""
    n, k = packed["extent"].shape[:2]
    if x.dim() != 2 or x.shape[1] != k:
        raise ValueError(f"the input has shape {tuple(x.shape)}; a layer with in_features={k} needs (tokens, {k})")
    if x.dtype not in NAMES:
        raise TypeError(f"the input is {x.dtype}; use float32, float16 or bfloat16")
    for name, (shape, dtype) in expected(spec, n, k, packed["extent"].dtype, element).items():
        tensor = packed[name]
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype) or not tensor.is_contiguous():
            raise ValueError(
                f"packed {name} are {tuple(tensor.shape)} {tensor.dtype}; {spec} with (out, in) = {(n, k)} needs "
                f"{shape} {dtype}, contiguous"
            )
        if tensor.device != x.device:
            raise ValueError(f"packed {name} are on {tensor.device}, the input on {x.device}; put both on one device")


def total(parts: Tensor, out: Tensor) -> Tensor:
    """parts (P, ...) float32, contiguous -> out (M, N), each element the sum of its parts in order."""
    size = out.numel()
    summed[(triton.cdiv(size, SUM_BLOCK),)](parts, out, size, parts.numel() // size, FAST=FAST, BLOCK=SUM_BLOCK)
    return out
