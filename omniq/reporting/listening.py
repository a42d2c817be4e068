"""kept: a listener that also keeps every notice with the run, for its report to repeat, and the metrics of blocks."""

from __future__ import annotations

from omniq.events import BlockDone, Event, Listener, Notice, Started
from omniq.reporting.metrics import Metrics
from omniq.work import Work


def kept(work: Work, listener: Listener) -> Listener:
    """`listener`, with every notice and the metrics of every block kept in the run's work folder."""
    metrics = Metrics(work)

    def told(event: Event) -> None:
        if isinstance(event, Notice):
            work.tell(event.text)
        elif isinstance(event, Started):
            metrics.begin(event.resumed_at)
        elif isinstance(event, BlockDone):
            metrics.add(event.index)
        listener(event)

    return told
