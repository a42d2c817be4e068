"""omniq doctor: whether the installation is what it should be, and what to do where it is not."""

from __future__ import annotations

import typer

from omniq.cli import options as o
from omniq.errors import OmniqError

STYLES = {"ok": "green", "note": "yellow", "problem": "red"}


def command(as_json: o.Json = False) -> None:
    """Check the installation and print what to fix; the exit code is 1 where something does not work.

    Looks at versions, compiled libraries, threads, memory, the cache folder and the hub, and tries every kernel on a
    small matrix. A note is about what works and could be better.
    """
    from rich.console import Console

    from omniq.cli.render import print_json
    from omniq.installation.checks import findings
    from omniq.installation.finding import PROBLEM

    console, found = Console(highlight=False, soft_wrap=True), []
    for finding in findings():
        found.append(finding)
        if not as_json:
            mark = f"[{STYLES[finding.state]}]{finding.state:8}[/]"
            console.print(mark, end="")
            console.print(f"{finding.name}: {finding.said}", markup=False)
            if finding.fix:
                console.print(f"{'':8}fix: {finding.fix}", markup=False)
    problems = sum(finding.state == PROBLEM for finding in found)
    if as_json:
        print_json({"problems": problems, "findings": [finding.to_dict() for finding in found]})
    if problems:
        raise typer.Exit(OmniqError.exit_code)
