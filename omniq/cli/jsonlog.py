"""--log-json: what a command does, one JSON object a line; docs/observability.md has the fields."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

import typer

from omniq import __version__
from omniq.cli.exits import FOUND, INTERRUPTED, TERMINATED
from omniq.errors import OutputError
from omniq.events import BlockDone, Event, Listener, Notice, Started, Step

LAYOUT = 1
"""Of the lines; a change of what a field means makes it another."""
NAMES: dict[type, str] = {Started: "started", BlockDone: "block", Notice: "notice", Step: "step"}
"""What each kind of event is called."""
OUTCOMES = {0: "done", FOUND: "found", INTERRUPTED: "interrupted", TERMINATED: "terminated"}
"""How a command ended, by its exit code; with any other it failed."""
PACKAGES = ("torch", "transformers", "safetensors", "compressed-tensors")
ON_STDERR = "-"
"""In place of the name of a file."""


class Log(AbstractContextManager):
    """The log of one command; it writes nothing until --log-json opens it. words: the command line.

    Listens to the events of a run. Inside a `with` its last line says how that ended.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words, self.began = list(words), time.monotonic()
        self.stepped = self.began
        self.file: int | None = None
        self.path = ""
        self.error: tuple[str, str] | None = None

    @property
    def on_stderr(self) -> bool:
        """Whether it takes the place of what people would read on standard error."""
        return self.path == ON_STDERR

    def open(self, path: str) -> None:
        """Goes on with the file `path`, or on standard error for '-', and says what runs."""
        if self.file is not None:
            return
        try:
            self.file = 2 if path == ON_STDERR else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(
                f"cannot write the log {path}: {error.strerror}; give --log-json a file in a folder that exists"
            ) from None
        self.path = path
        from omniq.installation.packages import version

        versions = {"omniq": __version__, "python": sys.version.split()[0]}
        versions |= {package: version(package) for package in PACKAGES}
        self.write("run", layout=LAYOUT, command=next(iter(self.words), None), words=self.words, versions=versions)

    def __call__(self, event: Event) -> None:
        self.write(NAMES[type(event)], **asdict(event))

    def write(self, event: str, **fields: Any) -> None:
        """One line; nothing while no log is open. A log that cannot be written any more ends, and the work goes on."""
        if self.file is None:
            return
        from omniq.cli.render import plain

        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values = {"time": now, "event": event, "process": os.getpid(), **peaks(), **fields}
        line = (json.dumps(plain(values), allow_nan=False) + "\n").encode()
        try:
            while line:
                line = line[os.write(self.file, line) :]
        except OSError as error:
            self.file = None
            typer.echo(f"note: the log {self.path} ends here ({error.strerror}); the command goes on", err=True)

    def step(self, done: int, total: int, text: str) -> None:
        """A line that step `done` of `total` is finished, with the seconds since the one before."""
        now = time.monotonic()
        self(Step(done, total, text, round(now - self.stepped, 6)))
        self.stepped = now

    def failed(self, kind: str, sentence: str) -> None:
        """Keeps what the last line is to say of a failure."""
        self.error = (kind, sentence)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = exit_code(error)
        if code and self.error is None and code not in OUTCOMES:
            # The command line parser ends by itself, and its own error is what its exit was raised from.
            cause = (error.__context__ or error) if isinstance(error, SystemExit) else error
            said = cause.format_message() if isinstance(cause, typer.BadParameter) else str(cause)
            self.failed(type(cause).__name__, said)
        found = self.error if code not in (0, FOUND) else None
        self.write(
            "end",
            outcome=OUTCOMES.get(code, "failed"),
            exit_code=code,
            seconds=round(time.monotonic() - self.began, 3),
            error=found and found[0],
            sentence=found and found[1],
        )
        if self.file is not None and not self.on_stderr:
            os.close(self.file)


def exit_code(error: BaseException | None) -> int:
    """What a process that ends with this error exits with."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1


def peaks() -> dict[str, int | None]:
    """The most bytes held so far, on the host and on an accelerator; nothing before torch is there to hold any."""
    if "torch" not in sys.modules:
        return {}
    import torch

    from omniq.memory import peak_resident

    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return {
        "peak_memory": peak_resident(),
        "device_peak": max((torch.cuda.max_memory_allocated(index) for index in used), default=None),
    }


def log_of(ctx: typer.Context) -> Log:
    """The log of the command under way."""
    return ctx.ensure_object(Log)


def opened(ctx: typer.Context, path: str | None) -> str | None:
    """Opens the log as soon as its option is read, so that it tells of any mistake in the others."""
    if path is not None and not ctx.resilient_parsing:
        log_of(ctx).open(path)
    return path


@contextmanager
def heard(ctx: typer.Context, quiet: bool) -> Iterator[Listener]:
    """Whoever listens to a command: the log, and the progress that people read, unless the log stands in its place."""
    from omniq.progress import ProgressReport

    log = log_of(ctx)
    if log.on_stderr:
        yield log
        return
    with ProgressReport(quiet) as shown:

        def both(event: Event) -> None:
            log(event)
            shown(event)

        yield both


@contextmanager
def counted(log: Log, total: int, noun: str) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number done: a step in the log, and what people read of it."""
    from omniq.progress import counting

    with nullcontext() if log.on_stderr else counting(total, noun) as shown:

        def told(done: int) -> None:
            if done:
                log.step(done, total, noun)
            if shown:
                shown(done)

        yield told
