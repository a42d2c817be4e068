"""A checkpoint read as the rotated model: tensors are transformed when they are read, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from torch import Tensor

from omniq.checkpoint import Reader
from omniq.header import TensorInfo
from omniq.rotation.steps import Step

ROWS = 8192
"""Rows of an embedding that are rotated at a time: in float64 a whole table would be four times its stored size."""


class RotatedReader:
    """A Reader of a rotated model.

    steps: what happens to a tensor, by its name in the checkpoint. copies: names that the checkpoint lacks -> the
    tensor they start from (an untied output head). exact: names that are read as float32, because they are quantised
    next; the others keep the dtype they are stored in. by_rows: names whose rows may be rotated a part at a time.
    """

    def __init__(
        self,
        source: Reader,
        steps: Mapping[str, Sequence[Step]],
        copies: Mapping[str, str],
        exact: AbstractSet[str],
        by_rows: AbstractSet[str],
    ) -> None:
        self.source, self.steps, self.copies = source, steps, copies
        self.exact, self.by_rows = exact, by_rows

    def names(self) -> tuple[str, ...]:
        """Every tensor name of the rotated model."""
        return (*self.source.names(), *self.copies)

    def __contains__(self, name: object) -> bool:
        return name in self.copies or name in self.source

    def info(self, name: str) -> TensorInfo:
        """dtype, shape and bytes of one tensor as read() gives it."""
        stored = self.source.info(self.copies.get(name, name))
        return TensorInfo(torch.float32, stored.shape) if name in self.exact else stored

    def read(self, name: str) -> Tensor:
        """One tensor of the rotated model, rotated in float64."""
        stored = self.source.read(self.copies.get(name, name))
        if name not in self.steps:
            return stored
        parts = stored.split(ROWS) if name in self.by_rows else (stored,)
        return torch.cat([self._rotated(name, part) for part in parts])

    def _rotated(self, name: str, stored: Tensor) -> Tensor:
        value = stored.double()
        for step in self.steps[name]:
            value = step(value)
        return value.to(torch.float32 if name in self.exact else stored.dtype)

    def added_bytes(self) -> int:
        """Bytes of the tensors that the checkpoint lacks."""
        return sum(self.info(name).nbytes for name in self.copies)

    def files(self) -> tuple[Path, ...]:
        """The files of the model that is rotated."""
        return self.source.files()

    def metadata(self) -> dict[str, str]:
        """The free-form metadata of the model that is rotated."""
        return self.source.metadata()

    def fingerprint(self) -> str:
        """That of the model that is rotated: which rotation it is follows from the recipe."""
        return self.source.fingerprint()
