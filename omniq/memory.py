"""Peak memory of this process, on the host and on an accelerator."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_resident() -> int:
    """Bytes of main memory that this process held at most since it began, or since restart_peak()."""
    # Not ru_maxrss: a process starts with that of the one which started it.
    if STATUS.is_file():
        return int(STATUS.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(device: torch.device) -> int:
    """Peak bytes of `device`'s memory that this process held."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()


def restart_peak(device: torch.device) -> None:
    """Forgets the peak so far, where the system lets a process do so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.is_file():
        CLEAR.write_text(RESET_PEAK)


def device_peak(device: torch.device) -> int | None:
    """Peak bytes on an accelerator, None where `device` is the CPU."""
    return peak_memory(device) if device.type == "cuda" else None
