"""omniq push: a finished checkpoint to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from omniq.cli import options as o

if TYPE_CHECKING:
    from omniq.push import Upload

Repo = Annotated[str, typer.Argument(help="Repository on the hub, made where there is none.", metavar="USER/NAME")]
Private = Annotated[
    bool, typer.Option("--private", help="Make a new repository that only you see.", rich_help_panel=o.OUTPUT)
]
Branch = Annotated[
    str | None,
    o.option("--revision", panel=o.OUTPUT, default="main", help="Branch to send to, made where there is none."),
]
Look = Annotated[
    bool,
    typer.Option("--dry-run", help="Check and list what would be sent; send nothing.", rich_help_panel=o.RUN),
]
Over = Annotated[
    bool,
    typer.Option("--overwrite", help="Send also where the repository holds other files.", rich_help_panel=o.OUTPUT),
]


def command(
    checkpoint: o.Checkpoint,
    repo: Repo,
    private: Private = False,
    revision: Branch = None,
    dry_run: Look = False,
    overwrite: Over = False,
    as_json: o.Json = False,
) -> None:
    """Send OUT with its model card and report to the hub, after checking that it is whole and names nothing private.

    Run the same command again after an interruption and it goes on where it stopped.
    """
    from omniq.push import prepared, push

    upload = prepared(checkpoint, repo, revision, private)
    if not dry_run:
        if not as_json:
            show(upload, "Sending")
        upload = push(checkpoint, repo, revision, private, overwrite)
    if as_json:
        from omniq.cli.render import print_json

        return print_json(upload.to_dict())
    return show(upload, "Nothing has been sent") if dry_run else typer.echo(upload.url)


def show(upload: Upload, title: str) -> None:
    """What is sent, and what the user should know of it."""
    from omniq.cli.render import print_pairs
    from omniq.eval.size import human_bytes

    where = upload.repo + (f", branch {upload.revision}" if upload.revision else "")
    pairs = [("to", where + (", private if it is new" if upload.private else ""))]
    pairs += [(name, human_bytes(size)) for name, size in upload.files.items()]
    pairs += [("in all", human_bytes(sum(upload.files.values()))), *(("note", note) for note in upload.notes)]
    print_pairs(title, pairs)
