"""One peer on one task, in the peer's own environment (benchmarks/quality.py calls it).

    ENVIRONMENT/bin/python benchmarks/peer.py NAME TASK.json

Writes what the peer saved, a dense copy of it, and facts.json: seconds, memory, optimiser steps, versions. The clock
runs from opening the model, with everything imported, to the peer's checkpoint on disk; what is done afterwards to
compare it is not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers.dense import write_dense
from peers.registry import module
from peers.steps import counted_steps
from peers.task import Task, Tokens


def run(name: str, task: Task) -> dict[str, Any]:
    """Quantises, saves, writes the dense folder; plain values."""
    peer = module(name)
    import_module(peer.IMPORTED)
    steps = counted_steps()
    began, cpu = time.perf_counter(), cpu_seconds()
    ids = Tokens(task.tokens)
    reload = peer.quantise(name, task, ids)
    facts = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": round(cpu_seconds() - cpu, 1),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": steps(),
        "tokens": ids.read,
        "version": ", ".join(f"{package} {version(package)}" for package in (*peer.NAMES, "transformers")),
        "size_after": weight_bytes(task.saved),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_dense(reload(), task.model, task.dense)
    return facts


def weight_bytes(folder: Path) -> int | str:
    """Bytes of the weights that the peer saved; empty where it saved none."""
    files = [file for file in folder.rglob("*") if file.suffix in (".safetensors", ".pt")]
    return sum(file.stat().st_size for file in files) or ""


def cpu_seconds() -> float:
    """Of this process and those it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def main() -> None:
    """Runs the task named on the command line."""
    name, file = sys.argv[1], Path(sys.argv[2])
    task = Task.read(file)
    task.facts.write_text(json.dumps(run(name, task)))


if __name__ == "__main__":
    main()
