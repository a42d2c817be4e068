"""Names of devices and dtypes as torch understands them."""

from __future__ import annotations

import re

import torch

from omniq.errors import UsageError

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_named(name: str) -> str:
    """'auto', 'cpu', 'cuda' or 'cuda:N' -> a device that this machine has."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not match:
        raise UsageError(f"device is {name!r}; use auto, cpu, cuda or cuda:N")
    if int(match[1] or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return name


def dtype_named(name: str) -> torch.dtype | None:
    """'auto' -> None, which means the checkpoint's own."""
    if name not in DTYPES:
        raise UsageError(f"dtype is {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]
