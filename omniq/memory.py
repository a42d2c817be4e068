"""Memory of this process and of the machine: peaks so far, what is free, and what a run may use."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from omniq.errors import UsageError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")
CONTROL = Path("/sys/fs/cgroup")
CONTROLS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file "),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file "),
)
"""Of both versions of control groups, below CONTROL: the limit, what is used of it, what of that is cache of files."""
RESET_PEAK = "5"
UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """Bytes that a run may hold on the host and on an accelerator; None: what there is."""

    host: int | None = None
    device: int | None = None


EVERYTHING = Budget()


def budget_of(text: str | None) -> Budget:
    """'16GB', or 'cpu=64GB,cuda=22GB' -> Budget; K, M, G and T are powers of 1024. None: what there is."""
    if text is None:
        return EVERYTHING
    if "=" not in text:
        return Budget(host=amount(text, text))
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in ("cpu", "cuda") or name.strip() in found:
            raise UsageError(f"max_memory is {text!r}; give an amount such as 16GB, or cpu=64GB,cuda=22GB")
        found[name.strip()] = amount(value, text)
    return Budget(found.get("cpu"), found.get("cuda"))


def amount(text: str, whole: str) -> int:
    """'1.5GB' -> bytes."""
    found = AMOUNT.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise UsageError(f"max_memory is {whole!r}; give an amount such as 16GB, or cpu=64GB,cuda=22GB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def in_units(count: int) -> str:
    """1610612736 -> '1.5GB': as budget_of() reads it."""
    unit = next((unit for unit in "TGM" if count >= UNITS[unit]), "K")
    return f"{count / UNITS[unit]:.1f}{unit}B"


def available() -> int:
    """Bytes of main memory that are free for this process, by the machine and by the limits it is under."""
    found = [1 << 62]
    if MACHINE.is_file():
        found.append(int(MACHINE.read_text().partition("MemAvailable:")[2].split()[0]) * 1024)
    for limit, used, stat, cached in CONTROLS:
        path = CONTROL / limit
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            cache = (CONTROL / stat).read_text().rpartition(cached)[2].split()
            found.append(max(0, int(text) - int((CONTROL / used).read_text()) + int(cache[0])))
    return min(found)


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
