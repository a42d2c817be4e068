"""Task: what a peer is asked to do, as a JSON file that its own environment reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Reload = Callable[[], nn.Module]
"""The model as a user of the peer gets it: read from what the peer saved, where it can save."""


class Tokens:
    """The calibration tokens of a file, read when they are asked for. read: how many were, 0 for a data-free peer."""

    def __init__(self, file: Path) -> None:
        self._file, self.read = file, 0

    def __call__(self) -> Tensor:
        """ids (B, T) int64."""
        ids = load_file(self._file)["ids"].to(torch.int64)
        self.read = ids.numel()
        return ids


@dataclass(frozen=True)
class Task:
    """model: a folder. tokens: safetensors file with 'ids' (B, T). bits, group_size (-1: per row), symmetric: the grid.

    options: the method's settings that differ from the peer's own defaults. out: folder for all that is written.
    """

    model: Path
    tokens: Path
    bits: int
    group_size: int
    symmetric: bool
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def saved(self) -> Path:
        """Where the peer saves its own checkpoint."""
        return self.out / "saved"

    @property
    def dense(self) -> Path:
        """Where the dequantised model goes."""
        return self.out / "dense"

    @property
    def facts(self) -> Path:
        """Where cost and versions go."""
        return self.out / "facts.json"

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}))

    @staticmethod
    def read(file: Path) -> Task:
        """The inverse of write."""
        values = json.loads(file.read_text())
        return Task(**values | {name: Path(values[name]) for name in ("model", "tokens", "out")})
