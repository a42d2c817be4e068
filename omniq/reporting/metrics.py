"""metrics.jsonl: a line for every finished block, to be plotted while a run goes on; later beside the checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniq.events import BlockDone
from omniq.reporting.gathered import number
from omniq.shards import write_text
from omniq.work import Work

METRICS = "metrics.jsonl"


class Metrics:
    """The lines of a run, in its work folder: one for each block that is kept there, whichever session made it.

    The file is written anew with every block, in one step: whoever reads it finds whole lines, and no block twice.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.lines = work, list[str]()

    def begin(self, done: int) -> None:
        """Starts from the blocks that are done."""
        self.lines = [line(index, self.work.facts(index)) for index in range(done)]
        self._write()

    def add(self, index: int) -> None:
        """Adds the block that is stored now."""
        self.lines.append(line(index, self.work.facts(index)))
        self._write()

    def _write(self) -> None:
        write_text(self.work.folder / METRICS, "".join(self.lines))


def stamped(done: BlockDone) -> dict[str, str]:
    """What is kept with a block beside the facts of how it came: the memory held so far, and the time in UTC."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"peak_memory": str(done.peak_memory), "device_peak": str(done.device_peak), "finished": finished}


def line(index: int, facts: Mapping[str, str]) -> str:
    """One block as JSON, from the facts kept with it."""
    values: dict[str, Any] = {
        "time": facts["finished"],
        "block": index,
        "seconds": float(facts["seconds"]),
        **{key: number(facts[key]) for key in ("loss_before", "loss_after", "error")},
        "skipped_steps": int(facts["skipped_steps"]),
        "unreached": len(json.loads(facts["unreached"])),
        **{key: None if facts[key] == "None" else int(facts[key]) for key in ("peak_memory", "device_peak")},
    }
    return json.dumps(values, allow_nan=False) + "\n"


def keep_metrics(work: Work, result: Path) -> None:
    """Puts the lines into the finished folder."""
    write_text(result / METRICS, (work.folder / METRICS).read_text(encoding="utf-8"))
