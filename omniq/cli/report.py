"""omniq report: the page of a quantisation run, made anew from the facts beside the checkpoint."""

from __future__ import annotations

import typer

from omniq.cli import options as o


def command(checkpoint: o.Checkpoint) -> None:
    """Make report.html in OUT anew from its report.json, as after installing matplotlib for the plots."""
    from omniq.page.figures import lacking
    from omniq.reporting.folder import read_record, write_report

    typer.echo(str(write_report(read_record(checkpoint), checkpoint)))
    if why := lacking():
        typer.echo(why, err=True)
