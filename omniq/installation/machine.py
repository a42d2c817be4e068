"""The machine: its threads, OpenMP runtimes, memory, cache folder, and the way to the hub."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from omniq.installation.finding import Finding, note, ok, problem
from omniq.memory import available, in_units
from omniq.source import TRANSPORT, cache_folder, offline

MAPS, QUOTA = Path("/proc/self/maps"), Path("/sys/fs/cgroup/cpu.max")
OPENMP = re.compile(r"\S*/lib(?:gomp|iomp5|omp)[-.\w]*\.so[.\d]*$")
LITTLE_SPACE, LITTLE_MEMORY = 5 << 30, 2 << 30
NEEDED_SPACE = 100 << 20
PATIENCE = 5.0
"""Seconds to wait for the hub."""


def cores() -> int:
    """Processors that this process may use, by its affinity and by the share that a container has."""
    found = len(os.sched_getaffinity(0))
    if QUOTA.is_file():
        allowed, period = QUOTA.read_text().split()
        if allowed != "max":
            found = min(found, max(1, round(int(allowed) / int(period))))
    return found


def threads(used: int, there: int) -> Finding:
    """used: threads of torch. there: processors."""
    if used > there:
        return note("threads", f"{used} on {there} processors get in each other's way", f"set OMP_NUM_THREADS={there}")
    if used < there // 2 or (used == 1 < there):
        return note("threads", f"{used}, and there are {there} processors", "unset OMP_NUM_THREADS, or make it higher")
    return ok("threads", f"{used} on {there} processors")


def openmp_runtimes(lines: Iterable[str]) -> list[str]:
    """The OpenMP libraries among the files that a process has mapped, as /proc/self/maps lists them."""
    return sorted({found[0] for one in lines if (found := OPENMP.search(one.strip()))})


def openmp(loaded: list[str]) -> Finding:
    """loaded: the OpenMP libraries of this process."""
    if len(loaded) > 1:
        said = f"{len(loaded)} are loaded, whose threads wait for the same processors: {', '.join(loaded)}"
        return note("OpenMP", said, "make an environment whose packages come from one source, pip or conda")
    return ok("OpenMP", loaded[0] if loaded else "no runtime of its own is loaded")


def memory(free: int) -> Finding:
    """free: bytes of main memory."""
    if free < LITTLE_MEMORY:
        fix = "close other programs, or give omniq quantize --max-memory, which keeps hidden states on disk"
        return note("memory", f"{in_units(free)} are free", fix)
    return ok("memory", f"{in_units(free)} are free")


def cache(folder: Path) -> Finding:
    """Whether files can be made in the folder, and how much room it has."""
    fix = "set HF_HOME to a folder that you may write to, on a disk with room"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"omniq")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return problem("cache folder", f"{folder} cannot be written: {error.strerror}", fix)
    said = f"{folder}, {in_units(free)} free"
    if free < NEEDED_SPACE:
        return problem("cache folder", said, fix)
    return note("cache folder", said, fix) if free < LITTLE_SPACE else ok("cache folder", said)


def hub(is_off: bool, reach: Callable[[], None]) -> Finding:
    """is_off: the user has switched the hub off. reach: asks it for anything."""
    if is_off:
        return ok("hub", "switched off by HF_HUB_OFFLINE: models come from folders and the hub's cache")
    try:
        reach()
    except (TRANSPORT, OSError) as error:
        said = f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}): only folders and cached models load"
        return note("hub", said, "check the network and its proxy, or set HF_HUB_OFFLINE=1 so that it is not asked")
    return ok("hub", f"{constants.ENDPOINT} answers")


def ask_hub() -> None:
    """Asks the hub for its first page's headers."""
    get_session().head(constants.ENDPOINT, timeout=PATIENCE)


def machine() -> Iterator[Finding]:
    """Every check of the machine."""
    yield threads(torch.get_num_threads(), cores())
    if MAPS.is_file():
        yield openmp(openmp_runtimes(MAPS.read_text().splitlines()))
    yield memory(available())
    yield cache(cache_folder())
    yield hub(offline(), ask_hub)
