"""Where and with what a measurement was made: the columns that every row of a CSV file ends with."""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import omniq
from omniq.errors import OutputError
from omniq.kernels import native

SOURCES = Path(omniq.__file__).resolve().parents[1]
CPUS = Path("/proc/cpuinfo")


def facts(device: torch.device, clock: str) -> dict[str, Any]:
    """Machine, versions, commit and date. clock: what time was taken, 'wall' or 'cpu'."""
    return {
        "threads": torch.get_num_threads(),
        "clock": clock,
        "machine": machine(device),
        "isa": native.cpu_isa() or "",
        "omniq": omniq.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def machine(device: torch.device) -> str:
    """The name of the GPU, or number and name of the processors."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPUS.read_text().splitlines() if CPUS.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {len(names)} x {names[0]}" if names else platform.machine()


def commit(sources: Path = SOURCES) -> str:
    """The commit that omniq is run from, '-dirty' with changes on top; '' where it is installed without its sources."""
    if not (sources / ".git").exists():
        return ""
    words = ["git", "-C", str(sources), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def check_csv(file: Path, columns: Iterable[str]) -> None:
    """OutputError unless rows of these columns can be added to the file, or a new one made."""
    columns = list(columns)
    if not file.parent.is_dir():
        raise OutputError(f"{file} cannot be written, since its folder does not exist; make the folder first")
    if not file.exists():
        return
    with file.open(newline="") as rows:
        found = next(csv.reader(rows), [])
    if found and found != columns:
        raise OutputError(f"{file} has other columns than this table; name another file, or move this one away")


def append_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows, with a first line of names where the file is new; it is complete after every call."""
    rows = list(rows)
    new = not file.exists() or not file.stat().st_size
    with file.open("a", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
