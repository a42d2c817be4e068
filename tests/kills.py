"""Runs of the command line in processes of their own: what they touched and said, and signals at chosen moments.

A child announces the files it touches (announcing.py), so a moment is a place between two touches and not a time: all
stages are hit however short they are. Children are forked from a server that has imported everything but computed
nothing; a `fresh` one is a new interpreter, as a user starts it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import announcing

PRELOAD = [
    "omniq.cli.app",
    "omniq.pipeline",
    "omniq.exporting.run",
    "omniq.progress",
    "omniq.cli.render",
    "matplotlib.figure",
    "kills",
]
"""Imported once, in the server that children are forked from."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
"""What a process that got the signal in the middle of its work ends with."""
NOTHING: Mapping[str, str] = {}
PATIENCE = 300.0
"""Seconds without a touch after which a child is given up."""


@dataclass(frozen=True)
class Touch:
    """A file that is about to be opened, renamed (its new name), removed or made; `at` seconds after the start.

    The first of a run is no file: the command line begins.
    """

    verb: str
    mode: str
    name: str
    at: float


@dataclass(frozen=True)
class Moment:
    """When to send a signal: `delay` seconds after the touch of this number (from 1) in a stage."""

    stage: str
    touch: int
    delay: float
    signal: signal.Signals


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: of its exit, negative for the signal that ended it. said: on standard error.

    stages: in which each touch was. answered: seconds from the signal to the end; None where the run was over before.
    """

    code: int
    said: str
    touches: tuple[Touch, ...]
    stages: tuple[str, ...]
    answered: float | None
    seconds: float

    @property
    def stage(self) -> str:
        """The stage in which it ended."""
        return self.stages[-1] if self.stages else START

    @property
    def sentence(self) -> str | None:
        """The sentence it ended with, if it ended with one."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("omniq: ")]
        return told[0] if len(told) == 1 and lines[-1] == told[0] and "Traceback" not in self.said else None


@dataclass
class Started:
    """A run that goes on. pipe: where it announces. end: waits for it and gives its exit code."""

    pid: int
    pipe: int
    end: Callable[[], int]
    errors: Path
    began: float = field(default_factory=time.monotonic)
    touches: list[Touch] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    rest: bytes = b""

    def until(self, moment: Moment) -> bool:
        """Follows the run up to the touch of a moment; whether there was one."""
        while self._more(PATIENCE):
            self._new()
            if self._reached(moment):
                return True
        return False

    def _reached(self, moment: Moment) -> Touch | None:
        """The touch of the moment, once there was one."""
        found = [touch for touch, stage in zip(self.touches, self.stages, strict=True) if stage == moment.stage]
        return found[moment.touch - 1] if len(found) >= moment.touch else None

    def finish(self, moment: Moment | None = None) -> Ended:
        """Follows the run to its end, and sends the signal of the moment when it comes."""
        due = sent = None
        while self._more(PATIENCE if due is None or sent is not None else max(0.0, due - time.monotonic())):
            self._new()
            if moment and due is None and (touch := self._reached(moment)):
                due = self.began + touch.at + moment.delay
            if due is not None and sent is None and time.monotonic() >= due:
                sent = time.monotonic()
                os.kill(self.pid, moment.signal)
        over = time.monotonic()
        os.close(self.pipe)
        code = self.end()
        said = self.errors.read_text(errors="replace")
        self.errors.unlink()
        answered = None if sent is None else over - sent
        return Ended(code, said, tuple(self.touches), tuple(self.stages), answered, over - self.began)

    def _more(self, seconds: float) -> bool:
        """Reads what was announced, for at most so long; False when the run is over."""
        ready, _, _ = select.select([self.pipe], [], [], seconds)
        if not ready:
            if seconds >= PATIENCE:
                os.kill(self.pid, signal.SIGKILL)
            return True
        chunk = os.read(self.pipe, 1 << 16)
        self.rest += chunk
        return bool(chunk)

    def _new(self) -> None:
        *lines, self.rest = self.rest.split(b"\n")
        now = time.monotonic() - self.began
        for line in lines:
            touch = Touch(*line.decode().split("\t"), at=now)
            self.touches.append(touch)
            self.stages.append(stage_after(touch, self.stages[-1] if self.stages else START))


@dataclass(frozen=True)
class Runs:
    """Where runs work: everything they touch that counts lies below `root`."""

    root: Path

    def start(
        self,
        words: Sequence[str],
        *,
        fresh: bool = False,
        fault: Callable[[], None] | None = None,
        env: Mapping[str, str] = NOTHING,
    ) -> Started:
        """Starts `omniq words`.

        fault: called in a forked child before it begins, to make something fail. env: variables of a fresh one.
        """
        errors = self.root / f"stderr-{time.monotonic_ns()}.txt"
        return self._fresh(words, errors, env) if fresh else self._forked(words, errors, fault)

    def run(self, words: Sequence[str], moment: Moment | None = None, **how: object) -> Ended:
        """Runs `omniq words` to its end, or to the moment."""
        return self.start(words, **how).finish(moment)

    def _fresh(self, words: Sequence[str], errors: Path, more: Mapping[str, str]) -> Started:
        receive, send = os.pipe()
        command = [sys.executable, announcing.__file__, str(send), str(self.root), *words]
        env = {**os.environ, "HF_HOME": str(self.root / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "1000", **more}
        with errors.open("wb") as said:
            child = subprocess.Popen(
                command, env=env, stdout=subprocess.DEVNULL, stderr=said, pass_fds=(send,), preexec_fn=_attentive
            )
        os.close(send)
        return Started(child.pid, receive, child.wait, errors)

    def _forked(self, words: Sequence[str], errors: Path, fault: Callable[[], None] | None) -> Started:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_served, args=(send, str(self.root), [*words], str(errors), fault))
        child.start()
        send.close()
        descriptor = os.dup(receive.fileno())
        receive.close()

        def end() -> int:
            child.join()
            return child.exitcode

        return Started(child.pid, descriptor, end, errors)


def _attentive() -> None:
    """Hears signals, which a shell's background jobs are started deaf to."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _served(send: Connection, root: str, words: list[str], errors: str, fault: Callable[[], None] | None) -> None:
    """In the child: the command line with its own standard error and cache."""
    import torch
    from huggingface_hub import constants

    _attentive()
    said = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    quiet = os.open(os.devnull, os.O_RDWR)
    for source, stream in ((quiet, 0), (quiet, 1), (said, 2)):
        os.dup2(source, stream)
    os.environ["COLUMNS"] = "1000"
    torch.set_num_threads(1)
    constants.HF_HOME = str(Path(root) / "home")
    if fault is not None:
        fault()
    announcing.command(send.fileno(), root, words)


START = "starting"
STAGES: tuple[tuple[str, str, str], ...] = (
    ("opening", "open r", r"^\w+/config\.json$"),
    ("reading the text", "open r", r"text[^/]*$|\.omniq/tokens|/omniq/tokens"),
    ("beginning", "open w", r"\.omniq/(lock|\.run\.json\.tmp)$"),
    ("storing", "open w", r"\.omniq/\.(allocation|tables|block|streams|tuned|last)"),
    ("calibrating", "remove", r"\.omniq/\.(run|allocation|tables|block|streams|told)"),
    ("writing", "mkdir", r"\.omniq/result$"),
    ("verifying", "open r", r"\.omniq/result/model[^/]*\.safetensors$|\.omniq/result\.gguf$"),
    ("telling", "open r", r"\.omniq/told\.json$"),
    ("publishing", "rename", r"^[^/]+$"),
)
"""(stage, what is done, to which file) of the touches at which a stage begins; the first that fits."""
ONLY_AFTER = {"opening": (START,), "telling": ("writing", "verifying")}
"""Stages whose files are touched at other times too."""


def stage_after(touch: Touch, before: str) -> str:
    """The stage that a touch leads to."""
    does = f"{touch.verb} {touch.mode[:1]}" if touch.verb == "open" else touch.verb
    names = (name for name, verb, pattern in STAGES if verb == does and re.search(pattern, touch.name))
    began = next(names, before)
    return began if before in ONLY_AFTER.get(began, (before,)) else before


class Moments:
    """Moments drawn by chance: touches as a whole run had them, each stage as likely as any other."""

    def __init__(self, whole: Ended, random: Random) -> None:
        self.random = random
        ends = [*(touch.at for touch in whole.touches), whole.seconds]
        self.gaps: dict[str, list[float]] = {}
        for stage, (start, end) in zip(whole.stages, pairwise(ends), strict=True):
            self.gaps.setdefault(stage, []).append(end - start)

    def draw(self, signals: Sequence[signal.Signals] = SIGNALS, among: Sequence[str] = ()) -> Moment:
        """The next moment, uniformly between its touch and the one after it. among: these stages, else all."""
        stage = self.random.choice([stage for stage in self.gaps if not among or stage in among])
        number = self.random.randrange(len(self.gaps[stage]))
        delay = self.random.random() * self.gaps[stage][number]
        return Moment(stage, number + 1, delay, self.random.choice(signals))
