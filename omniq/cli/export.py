"""omniq export: a quantised checkpoint in another tool's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omniq.cli import options as o
from omniq.cli.completion import names_in
from omniq.cli.jsonlog import heard, log_of

if TYPE_CHECKING:
    from omniq.exporting.report import ExportPlan, ExportReport

Checkpoint = Annotated[
    Path, typer.Argument(help="Folder of a quantised model, of omniq or of another tool.", metavar="CHECKPOINT")
]
Target = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        help="The layout to write: a name of omniq list formats.",
        rich_help_panel=o.OUTPUT,
        autocompletion=names_in("omniq.formats", "omniq.exporting.targets"),
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder to write; with --format gguf, file.", rich_help_panel=o.OUTPUT, show_default=False
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Of weights that are multiplied out (--format dense): auto is the checkpoint's own, else float32, "
        "bfloat16 or float16.",
        rich_help_panel=o.OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check that the format can hold it, print the plan; write nothing.", rich_help_panel=o.RUN
    ),
]


def command(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    format: Target,
    out: Out,
    dtype: Dtype = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: DryRun = False,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    log_json: o.LogJson = None,
) -> None:
    """Write the same integers in another tool's layout, or multiplied out; read back before OUT is there.

    What a layout cannot hold is refused with the layer, the reason and a format that can.
    """
    from omniq import hf
    from omniq.devices import dtype_named
    from omniq.exporting import run

    shared = {"dtype": dtype_named(dtype), "overwrite": overwrite, "trust_remote_code": trust_remote_code}
    hf.quiet()
    if dry_run:
        return show_plan(run.plan(checkpoint, out, format, **shared), as_json)
    with heard(ctx, quiet) as listener:
        report = run.export(checkpoint, out, format, on_event=listener, **shared)
    log_of(ctx).write("result", result=report.to_dict())
    show_report(report, as_json, quiet)


def show_plan(plan: ExportPlan, as_json: bool) -> None:
    """The plan on standard output."""
    from omniq.cli.render import print_json, print_pairs
    from omniq.eval.size import human_bytes

    if as_json:
        return print_json(plan.to_dict())
    pairs = [
        ("checkpoint", f"{plan.checkpoint}, {plan.origin}"),
        *what(plan),
        ("on disk", f"{human_bytes(plan.size_before)} -> about {human_bytes(plan.size_after)}"),
        ("peak memory", f"about {human_bytes(plan.peak_memory)}"),
        ("disk used meanwhile", human_bytes(plan.work_bytes)),
        *(("loads in", loader) for loader in plan.loaders),
        *(("note", note) for note in plan.notes),
    ]
    print_pairs("Plan (nothing has been written)", pairs)


def show_report(report: ExportReport, as_json: bool, quiet: bool) -> None:
    """The report on standard output; a quiet run prints it as JSON or not at all."""
    from omniq.cli.render import print_json, print_pairs
    from omniq.eval.size import human_bytes
    from omniq.page.words import duration

    if as_json:
        return print_json(report.to_dict())
    if quiet:
        return None
    pairs = [
        ("written to", report.out),
        *what(report),
        ("size", f"{human_bytes(report.size_before)} -> {human_bytes(report.size_after)}"),
        ("time", duration(report.seconds)),
        ("peak memory", human_bytes(report.peak_memory)),
        ("read back", "every number is the checkpoint's"),
        *(("note", note) for note in report.notes),
        *(("loads in", loader) for loader in report.loaders),
    ]
    print_pairs(f"{report.origin} to {report.target}", pairs)


def what(facts: ExportPlan | ExportReport) -> list[tuple[str, str]]:
    """What is in the checkpoint, as rows for people."""
    rows = [("linear layers", ", ".join(f"{count} {scheme}" for scheme, count in facts.schemes.items()))]
    return [*rows, *([("embedding table", facts.tables)] if facts.tables else [])]
