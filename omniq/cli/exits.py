"""Exit codes: how a command ended, for scripts."""

from __future__ import annotations

from omniq.cli.interruption import INTERRUPTED, TERMINATED
from omniq.errors import (
    DataError,
    HubError,
    ModelError,
    OmniqError,
    OutputError,
    RankError,
    UnsupportedError,
    UsageError,
    VerificationError,
)

OUT_OF_MEMORY, FOUND = 8, 9

EXITS = {
    0: "done",
    OmniqError.exit_code: "any other failure, or a problem that omniq doctor found",
    UsageError.exit_code: "options that can never work",
    ModelError.exit_code: "the model is missing, damaged or of another kind",
    DataError.exit_code: "the text is missing or too short",
    UnsupportedError.exit_code: "not possible with this architecture, format or kernel",
    VerificationError.exit_code: "what was written does not read back as calibrated",
    OutputError.exit_code: "the output folder is in use or in the way, or the disk is full",
    OUT_OF_MEMORY: "out of memory",
    FOUND: "an audit found an effect that --fail-on names",
    HubError.exit_code: "the hub cannot be reached, or does not allow that",
    RankError.exit_code: "another process of the same job has gone",
    INTERRUPTED: "interrupted (Ctrl-C)",
    TERMINATED: "terminated (SIGTERM)",
}
"""Every exit code, in words."""


def in_one_line() -> str:
    """'0 done, 1 any other failure, ...' for the end of a help text."""
    return ", ".join(f"{code} {words}" for code, words in EXITS.items())
