"""Told: which decoder blocks of an export are finished, for whoever shows the progress."""

from __future__ import annotations

import time
from collections import Counter

from omniq.events import BlockDone, Listener, Started
from omniq.exporting.origin import Layer, Origin


class Told:
    """Call it with every linear that is finished: the listener hears when that was the last one of a block."""

    def __init__(self, origin: Origin, on_event: Listener, description: str) -> None:
        self.on_event, self.prefix = on_event, f"{origin.model.blocks}."
        self.left = Counter(self._block(layer) for layer in origin.layers)
        self.blocks, self.since = len(self.left), time.perf_counter()
        on_event(Started(self.blocks, 0, description))

    def _block(self, layer: Layer) -> str:
        return layer.name.removeprefix(self.prefix).partition(".")[0]

    def __call__(self, layer: Layer) -> None:
        block = self._block(layer)
        self.left[block] -= 1
        if self.left[block]:
            return
        done = self.blocks - sum(1 for count in self.left.values() if count)
        now = time.perf_counter()
        self.on_event(BlockDone(done - 1, self.blocks, now - self.since))
        self.since = now
