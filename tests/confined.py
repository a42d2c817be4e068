"""Confined: a function called in a process of its own, within limits of time and memory; how it ended, in one word.

One process serves many cases and is started again after a case that it did not survive. The peak of resident memory
is the kernel's, set back before every case; a limit of the address space stops what would take the machine along.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from omniq.errors import OmniqError

SECONDS = 5.0
"""Of the processor's time that a case may take."""
PATIENCE = 60.0
"""Seconds after which a process that says nothing is ended: it waits, or never answers its alarm."""
ROOM = 160 * 2**20
"""Bytes of memory that reading a small file may take on top of what its size explains."""
PER_BYTE = 24
"""Bytes of memory for a byte of the file: objects of Python are that much larger than the JSON they came from."""
SPACE = 4 * 2**30
"""Bytes of address space on top, which threads and mapped files take without using them."""
LONGEST = 2000
"""Characters of a sentence."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended. kind: ok, refused, or what is wrong and where. text: the sentence, or the traceback."""

    seed: int
    kind: str
    text: str
    seconds: float
    bytes: int

    @property
    def good(self) -> bool:
        """Whether the file was read, or refused in a sentence."""
        return self.kind in ("ok", "refused")


class TooLong(BaseException):
    """Raised by the alarm; no library catches it by accident."""


def confined(case: Callable[[int], tuple[int, Callable[[], object]]], seeds: Iterable[int]) -> Iterator[Outcome]:
    """How each case ended, in order. case: seed -> (bytes of its files, the call)."""
    left = list(seeds)
    while left:
        done = 0
        for outcome in _served(case, left):
            yield outcome
            done += 1
        left = left[done:]


def _served(case: Callable[[int], tuple[int, Callable[[], object]]], seeds: list[int]) -> Iterator[Outcome]:
    """Outcomes of one process: of all seeds, or up to the first it did not survive."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _serve(case, seeds, send)
    os.close(send)
    buffer, done = b"", 0
    try:
        while done < len(seeds):
            ready, _, _ = select.select([receive], [], [], PATIENCE)
            chunk = os.read(receive, 1 << 16) if ready else b""
            if not chunk:
                why = "died" if ready else "hangs where no alarm is heard"
                yield Outcome(seeds[done], why, "", 0.0 if ready else PATIENCE, 0)
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                yield Outcome(**json.loads(line))
                done += 1
    finally:
        os.close(receive)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(case: Callable[[int], tuple[int, Callable[[], object]]], seeds: list[int], send: int) -> None:
    """The process of its own: never returns."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _alarm)
    try:
        for seed in seeds:
            os.write(send, json.dumps(asdict(measured(case, seed))).encode() + b"\n")
    finally:
        os._exit(0)  # nothing of the parent's may run here


def _alarm(*_: object) -> None:
    raise TooLong


def measured(case: Callable[[int], tuple[int, Callable[[], object]]], seed: int) -> Outcome:
    """One case in this process, which must be one's own."""
    try:
        size, call = case(seed)
    except Exception:  # noqa: BLE001 (told apart from what the reader does)
        return Outcome(seed, "the case itself is broken", traceback.format_exc(), 0.0, 0)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = _memory("VmRSS"), time.process_time()
    _limit(_memory("VmSize") + SPACE + PER_BYTE * size)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        kind, text = _called(call)
    except TooLong:
        kind, text = f"hangs {_place()}", traceback.format_exc()[-1200:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit(resource.RLIM_INFINITY)
    peak = _memory("VmHWM") - before
    if kind in ("ok", "refused") and peak > ROOM + PER_BYTE * size:
        kind, text = "memory", f"{peak} bytes for files of {size}; {text}"
    return Outcome(seed, kind, text, time.process_time() - began, peak)


def _called(call: Callable[[], object]) -> tuple[str, str]:
    """('ok', ''), ('refused', the sentence), or what went wrong and its traceback."""
    try:
        call()
    except OmniqError as error:
        text = str(error)
        fine = text and len(text) <= LONGEST and "\n" not in text
        return ("refused", text) if fine else (f"no sentence {_place()}", f"{len(text)} characters: {text[:300]}")
    except TooLong:
        raise
    except BaseException as error:  # noqa: BLE001 (whatever a library may raise, a panic of Rust included)
        return f"{type(error).__name__} {_place()}", traceback.format_exc()[-1200:]
    return "ok", ""


def _place() -> str:
    """The innermost function of omniq in the traceback at hand."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [f"{Path(f.filename).name}:{f.name}" for f in frames if "/tests/" not in f.filename and _is_own(f.filename)]
    return f"in {own[-1] if own else 'the case itself'}"


def _is_own(file: str) -> bool:
    return any(f"/{part}/" in file for part in ("omniq", "kernels", "calibrate")) and "site-packages" not in file


def _memory(what: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024


def _limit(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
