"""A folder that one process at a time may write to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO


def taken(path: Path) -> TextIO | None:
    """Makes the file `path` and the folders above it, and locks it until it is closed; None where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):  # held, or just removed by the one that held it
        pass
    lock.close()
    return None
