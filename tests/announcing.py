"""Announcing: a process that tells another which files below a folder it touches, as it does so.

Imports next to nothing, so that a command can be started through it and be what it is without it.
"""

from __future__ import annotations

import os
import sys

VERBS = {
    "open": "open",
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "shutil.rmtree": "rmtree",
}
"""The interpreter's names for what is told, and the words it is told in."""


def announce(descriptor: int, root: str) -> None:
    """Writes a line (verb, mode, path below `root`) to a pipe before each open, rename, remove, mkdir and rmtree."""

    def hook(event: str, args: tuple) -> None:
        if event not in VERBS:
            return
        path = args[1] if event == "os.rename" else args[0]
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not name.startswith(root + os.sep):
            return
        mode = args[1] if event == "open" and isinstance(args[1], str) else "-"
        os.write(descriptor, f"{VERBS[event]}\t{mode}\t{name[len(root) + 1 :]}\n".encode())

    sys.addaudithook(hook)


def command(descriptor: int, root: str, words: list[str]) -> None:
    """The command line of omniq, announced, and that it begins: before that Python answers to signals."""
    announce(descriptor, root)
    from omniq.cli.app import main

    os.write(descriptor, b"begin\t-\tomniq\n")
    main(words)


if __name__ == "__main__":
    command(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
