"""Target: another tool's layout that a quantised checkpoint can be written in. Adding one is adding a file to targets/.

Every checkpoint format of omniq.formats becomes a target by itself (targets/layout.py); the other files are one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from omniq.events import Listener
from omniq.registry import Registry

if TYPE_CHECKING:
    from omniq.exporting.origin import Origin  # whose imports a list of the targets does not need

MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Choices:
    """What the user chose beside the target.

    dtype: of weights that a target stores in floating point; None: the checkpoint's own. max_shard_bytes: of one
    safetensors file.
    """

    dtype: torch.dtype | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES


class Target(Protocol):
    """One layout. Implementations inherit nothing, and raise OmniqErrors only."""

    summary: str
    """What it is, for people."""

    loaders: str
    """Which runtimes load it, for people."""

    suffix: str | None
    """How the name of the output file ends ('.gguf'); None where the output is a folder."""

    dtypes: tuple[torch.dtype, ...]
    """What Choices.dtype may be beside None; empty where the target has no use for it."""

    def refuse(self, origin: Origin, choices: Choices) -> str | None:
        """Why the checkpoint cannot be said in this layout, or None; from specs and shapes, before any weight is read.

        The reason names the layer ('model.layers.0.mlp.up_proj as W3A16g128: ...') and ends without a full stop; which
        other formats can say it is added by the caller, who asks the other targets.
        """

    def loaded_by(self, origin: Origin) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each, transformers first."""

    def nbytes(self, origin: Origin, choices: Choices) -> int:
        """Bytes of weights in the result, to within a few per cent, for the plan."""

    def write(self, origin: Origin, result: Path, choices: Choices, on_event: Listener) -> tuple[str, ...]:
        """Writes the whole output and returns what the user should know of it, a sentence each.

        result: an empty folder, or the path of a file that does not exist yet, under a temporary name on the disk of
        the output; the caller moves it in place when verify() is content. One linear is in memory at a time.
        on_event is told of every finished decoder block, as Told of telling.py does. What only the data shows to be
        impossible raises UnsupportedError with the tensor's name.
        """

    def verify(self, origin: Origin, result: Path, choices: Choices) -> None:
        """Reads back what was written; VerificationError names the first linear with other numbers than `origin`'s."""


TARGETS: Registry[Target] = Registry("export format", "omniq.exporting.targets")


def which_can(names: Sequence[str]) -> str:
    """The sentence after a refusal: the formats that can hold the same."""
    return f"What can: --format {' or '.join(names)}." if names else "No other format can either."
