"""kept: a listener that also keeps every notice with the run, so that its report can repeat them all."""

from __future__ import annotations

from omniq.events import Event, Listener, Notice
from omniq.work import Work


def kept(work: Work, listener: Listener) -> Listener:
    """`listener`, with every notice kept in the run's work folder."""

    def told(event: Event) -> None:
        if isinstance(event, Notice):
            work.tell(event.text)
        listener(event)

    return told
