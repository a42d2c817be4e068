"""synthetic: seeded biographies of invented people, with every form of question."""

from __future__ import annotations

from omniq.knowledge.biographies.knowledge import synthetic
from omniq.knowledge.biographies.settings import defaults
from omniq.knowledge.source import SOURCES, Source

SOURCES.add("synthetic")(
    Source(
        read=synthetic,
        summary="seeded biographies of invented people: forget, retain and holdout people, every form of question",
        argument=",".join(f"{name}={default}" for name, default in defaults().items()),
    )
)
