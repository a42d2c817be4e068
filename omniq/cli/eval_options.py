"""The options that say what is measured, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omniq.cli.options import CHECK, OUTPUT, option

EvalText = Annotated[
    Path | None, option("--eval", panel=CHECK, metavar="FILE", help="Text to compare the result with the original on.")
]
EvalWindows = Annotated[
    int, typer.Option("--eval-windows", help="Windows of it, spread evenly; 0: all.", rich_help_panel=CHECK)
]
EvalLength = Annotated[int, typer.Option("--eval-length", help="Tokens per window.", rich_help_panel=CHECK)]

Text = Annotated[Path | None, option("--text", panel=CHECK, metavar="FILE", help="Text to measure perplexity on.")]
Against = Annotated[
    str | None,
    option("--against", panel=CHECK, metavar="MODEL", help="The original, to measure KL and agreement with."),
]
Windows = Annotated[
    int, typer.Option("--windows", help="Windows of the text, spread evenly; 0: all.", rich_help_panel=CHECK)
]
WindowLength = Annotated[int, typer.Option("--length", help="Tokens per window.", rich_help_panel=CHECK)]
Batch = Annotated[
    int, typer.Option("--batch", help="Windows, or items of a task, run at a time.", rich_help_panel=CHECK)
]
Tasks = Annotated[
    str | None,
    option(
        "--tasks",
        panel=CHECK,
        metavar="A,B,...",
        help="Tasks of lm-evaluation-harness to score, by name, group or pattern.",
    ),
]
IncludePath = Annotated[
    Path | None, option("--include-path", panel=CHECK, metavar="DIR", help="Folder with tasks of your own for --tasks.")
]
Limit = Annotated[
    int | None, option("--limit", panel=CHECK, default="all", help="Only the first so many items of each task.")
]
Record = Annotated[
    bool,
    typer.Option(
        "--record", help="Keep the figures in OUT too: in its report, model card and config.", rich_help_panel=OUTPUT
    ),
]
