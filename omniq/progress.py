"""What the user sees while blocks are quantised: a bar on a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from omniq.events import BlockDone, Event, Notice, Started, Step
from omniq.page.words import duration

SECONDS_BETWEEN_LINES = 20


def block_line(event: BlockDone, mean_seconds: float) -> str:
    """One finished block in words, with an estimate of the time left from the mean time of a block so far."""
    left = (event.blocks - event.index - 1) * mean_seconds
    parts = [f"block {event.index + 1}/{event.blocks}"]
    if event.loss_after is not None:
        before = f"{event.loss_before:.3g} -> " if event.loss_before is not None else ""
        parts.append(f"loss {before}{event.loss_after:.3g}")
    if event.skipped_steps:
        parts.append(f"{event.skipped_steps} steps skipped (loss not finite)")
    parts += event.met
    parts += [duration(event.seconds), f"about {duration(left)} left" if left else "done"]
    return ", ".join(parts)


def resumed_line(event: Started) -> str:
    """Where an interrupted run goes on."""
    if event.resumed_at == event.blocks:
        return f"going on after block {event.blocks} of {event.blocks}; all blocks are done"
    return f"going on at block {event.resumed_at + 1} of {event.blocks}; the earlier ones are done"


@contextmanager
def counting(total: int, noun: str) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number done: a bar with the time left, or now and then a line of that."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f"{noun}s", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    began = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done and now - told >= SECONDS_BETWEEN_LINES:
            console.print(f"{noun} {done}/{total}, about {duration((now - began) * (total - done) / done)} left")
            told = now

    yield tell


class ProgressReport(AbstractContextManager):
    """A listener for the events of a run; `quiet` shows notices alone."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.spent, self.finished = quiet, 0.0, 0
        self.bar: Progress | None = None
        if not quiet and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.console.print(f"[yellow]note:[/yellow] {escape(event.text)}")
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Step):
            self._line(f"{event.index}/{event.total} {event.text}, {duration(event.seconds)}")
        else:
            self._block_done(event)

    def _started(self, event: Started) -> None:
        self._line(event.description)
        if event.resumed_at:
            self._line(resumed_line(event))
        if self.bar:
            self.bar.add_task("blocks", total=event.blocks, completed=event.resumed_at)

    def _block_done(self, event: BlockDone) -> None:
        self.spent, self.finished = self.spent + event.seconds, self.finished + 1
        self._line(block_line(event, self.spent / self.finished))
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=event.index + 1)

    def _line(self, text: str) -> None:
        if not self.quiet:
            self.console.print(escape(text))
