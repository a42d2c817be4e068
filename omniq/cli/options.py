"""The options of the command line: each one's type, help text and panel, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from omniq.cli.completion import one_of
from omniq.cli.jsonlog import opened

BITS, DATA, METHOD, CHECK, RUN, OUTPUT = (
    "Number format",
    "Calibration data",
    "Method",
    "Measure the result",
    "Where and how to run",
    "Output",
)


def option(
    *names: str,
    panel: str,
    help: str,
    default: str | None = None,
    metavar: str | None = None,
    complete: Callable[[str], list] | None = None,
) -> OptionInfo:
    """An option that is None unless given; `default`: what then holds, in words for the help.

    complete: what the shell offers for the beginning of a value.
    """
    text = help + (f" [dim]\\[default: {default}][/dim]" if default else "")
    shown = {"rich_help_panel": panel, "show_default": False, "metavar": metavar, "autocompletion": complete}
    return typer.Option(*names, help=text, **shown)


Model = Annotated[str, typer.Argument(help="Hub id, folder or GGUF file of a causal language model.", metavar="MODEL")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder to write the quantised model to.", rich_help_panel=OUTPUT, show_default=False
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="Folder that omniq quantize wrote.", metavar="OUT")]

Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUN, autocompletion=one_of("auto", "cpu", "cuda")
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="AMOUNT",
        help="Memory the run may hold: 16GB, or cpu=64GB,cuda=22GB. Hidden states go to disk where they do not fit.",
        rich_help_panel=RUN,
        show_default="what is free",
    ),
]
DType = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto, float32, bfloat16 or float16.",
        rich_help_panel=RUN,
        autocompletion=one_of("auto", "float32", "bfloat16", "float16"),
    ),
]
Activations = Annotated[
    str,
    typer.Option(
        "--activations",
        help="exact, or int8: let kernels round activations to 8-bit integers where that is faster.",
        rich_help_panel=RUN,
        autocompletion=one_of("exact", "int8"),
    ),
]
EmbedBits = Annotated[
    int,
    typer.Option(
        "--embed-bits",
        help="8 or 4: round the embedding table and the output head while they are loaded; 16: as they are stored.",
        rich_help_panel=RUN,
    ),
]
Revision = Annotated[str | None, option("--revision", panel=RUN, help="Branch, tag or commit of a hub model.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that the model's folder brings along.", rich_help_panel=RUN
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the plan with sizes, memory and time; quantise nothing.", rich_help_panel=RUN
    ),
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is in the output folder.", rich_help_panel=OUTPUT)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else on standard output.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.", rich_help_panel=OUTPUT)]
LogJson = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        metavar="FILE",
        is_eager=True,
        callback=opened,
        help="Also write what happens as one JSON object a line, added to FILE; - for standard error, instead of "
        "progress.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
