"""What the commands of `omniq bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omniq.cli import options as o
from omniq.errors import UsageError

WHAT, HOW = "What to run", "How to measure"

ClockName = Annotated[
    str,
    typer.Option(
        "--clock",
        help="wall, or cpu: time of the processors over the threads, for a machine that others use too.",
        rich_help_panel=HOW,
    ),
]
Threads = Annotated[int | None, o.option("--threads", panel=HOW, default="as torch", help="Threads on the CPU.")]
Csv = Annotated[Path | None, o.option("--csv", panel=o.OUTPUT, metavar="FILE", help="Add the rows to a CSV file.")]


def threads_set(threads: int | None) -> int:
    """Makes torch, and with it omniq's kernels, use so many threads; how many there are then."""
    import torch

    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads is {threads}; use 1 or more")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
