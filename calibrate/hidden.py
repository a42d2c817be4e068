"""Hidden states of all calibration samples: in memory, or in a file that is read a few sequences at a time.

A tensor (B, T, D) serves wherever OnDisk does: what works on hidden states asks only for what both can.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from omniq.errors import ModelError, OutputError

FLOAT32 = 4


class OnDisk:
    """Hidden states (B, T, D) float32 that lie in a file from byte `start` on, a sequence after the other.

    Taking a slice reads nothing: it gives the same sequences without the others.
    """

    def __init__(self, file: BinaryIO, shape: Sequence[int], start: int = 0) -> None:
        self.file, self.shape, self.start = file, torch.Size(shape), start

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> OnDisk | Tensor:
        """Some sequences: a slice as another view of the file, indices (b,) as a tensor (b, T, D)."""
        if isinstance(rows, Tensor):
            found = torch.empty(len(rows), *self.shape[1:])
            for place, row in enumerate(rows.tolist()):
                self._read(row, found[place : place + 1])
            return found
        first, stop, _ = rows.indices(len(self))
        return OnDisk(self.file, (max(0, stop - first), *self.shape[1:]), self._place(first))

    def __setitem__(self, rows: slice, values: Tensor) -> None:
        """Writes values (b, T, D) in the place of a slice of as many sequences."""
        raw = memoryview(values.detach().to("cpu", torch.float32).contiguous().view(-1).view(torch.uint8).numpy())
        done, place = 0, self._place(rows.indices(len(self))[0])
        try:
            while done < len(raw):
                done += os.pwrite(self.file.fileno(), raw[done:], place + done)
        except OSError as error:
            raise OutputError(f"cannot keep hidden states on disk: {error.strerror}; free some space") from None

    def __iter__(self) -> Iterator[Tensor]:
        """Every sequence (T, D)."""
        return (part[0] for part in self.split(1))

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches (b, T, D), read as they are asked for."""
        for first in range(0, len(self), size):
            found = torch.empty(min(size, len(self) - first), *self.shape[1:])
            self._read(first, found)
            yield found

    def _place(self, row: int) -> int:
        return self.start + FLOAT32 * row * math.prod(self.shape[1:])

    def _read(self, row: int, out: Tensor) -> None:
        """Fills out (b, T, D) with the sequences from `row` on."""
        raw, done = memoryview(out.view(-1).view(torch.uint8).numpy()), 0
        while done < len(raw):
            count = os.preadv(self.file.fileno(), [raw[done:]], self._place(row) + done)
            if not count:
                raise ModelError("a file of hidden states became shorter while it was read; start again to go on")
            done += count


Hidden = Tensor | OnDisk
Room = Callable[[Sequence[int]], Hidden]
"""Makes place for hidden states of a shape (B, T, D)."""


def in_memory(shape: Sequence[int]) -> Tensor:
    """Place for hidden states (B, T, D) in main memory."""
    return torch.empty(tuple(shape))


def on_disk(folder: Path) -> Room:
    """Gives place in files that have no name in `folder`, so that nothing is left of them after the process."""

    def room(shape: Sequence[int]) -> OnDisk:
        try:
            file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - OnDisk holds it
        except OSError as error:
            raise OutputError(f"cannot keep hidden states in {folder}: {error.strerror}") from None
        return OnDisk(file, shape)

    return room


def opened(path: Path, shape: Sequence[int], start: int) -> OnDisk:
    """Hidden states (B, T, D) float32 that begin at byte `start` of a file."""
    try:
        return OnDisk(path.open("rb", buffering=0), shape, start)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def filled(room: Room, count: int, parts: Iterable[Tensor]) -> Hidden:
    """parts (b, T, D) of `count` sequences in all, one after another, in a place for all of them (B, T, D)."""
    found, first = None, 0
    for part in parts:
        found = room((count, *part.shape[1:])) if found is None else found
        found[first : first + len(part)] = part
        first += len(part)
    if found is None or first < count:
        raise ValueError(f"{first} of {count} sequences were given")
    return found
