"""StoredStreams: hidden states after finished blocks, a file of each process that shares the samples.

Process r of n writes its own samples, r, r + n, r + 2 n ..., so that any number of processes can go on with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from omniq.calibrate.hidden import Hidden, OnDisk, Room, filled, opened
from omniq.calibrate.ranks import Ranks
from omniq.calibrate.run import Streams
from omniq.checkpoint import Reader
from omniq.errors import ModelError
from omniq.sealed import Seal

NAME = "streams-{:05d}-{}-of-{}.safetensors"
NAMED = re.compile(r"streams-\d{5}-(\d+)-of-(\d+)\.safetensors")


def save(folder: Path, seal: Seal, index: int, streams: Streams, ranks: Ranks) -> None:
    """Writes what this process's samples are after block `index`."""
    tensors = {"original": streams.original, "quantized": streams.quantized}
    seal.write(folder / NAME.format(index, ranks.index, ranks.count), tensors, {})


def files(folder: Path, index: int) -> list[Path]:
    """The files that hold the hidden states after block `index`, process by process; none unless all are there."""
    sets: dict[int, dict[int, Path]] = {}
    for path in folder.glob(f"streams-{index:05d}-*.safetensors"):
        if found := NAMED.fullmatch(path.name):
            own, count = map(int, found.groups())
            sets.setdefault(count, {})[own] = path
    whole = [paths for count, paths in sets.items() if sorted(paths) == list(range(count))]
    return [path for _, path in sorted(whole[0].items())] if whole else []


def read(folder: Path, index: int, ranks: Ranks, room: Room) -> Streams:
    """What this process's samples are after block `index`, as many processes as may have written them."""
    readers = [Reader(path) for path in files(folder, index)]
    if not readers:
        raise ModelError(f"{folder} lacks the hidden states after block {index}; give --overwrite to start anew")
    return Streams(*(_own(readers, name, ranks, room) for name in ("original", "quantized")))


def first(folder: Path, index: int, ranks: Ranks, batch: int) -> Tensor:
    """The first `batch` of this process's samples after block `index`, quantised (b, T, D)."""
    stored = [_stored(Reader(path), "quantized") for path in files(folder, index)]
    return torch.cat(list(_rows(stored, _of(stored, ranks)[:batch])))


def drop_rivals(folder: Path, index: int, ranks: Ranks) -> None:
    """Removes what another number of processes left of block `index`: the block to come is not of that run of it."""
    for path in folder.glob(f"streams-{index:05d}-*.safetensors"):
        if not path.name.endswith(f"-of-{ranks.count}.safetensors"):
            path.unlink(missing_ok=True)


def drop_before(folder: Path, index: int) -> None:
    """Removes the files of every block before `index`."""
    for path in folder.glob("streams-*.safetensors"):
        if path.name < f"streams-{index:05d}":
            path.unlink(missing_ok=True)


def _own(readers: list[Reader], name: str, ranks: Ranks, room: Room) -> Hidden:
    """The samples of this process of one stream."""
    stored = [_stored(reader, name) for reader in readers]
    rows = _of(stored, ranks)
    return filled(room, len(rows), _rows(stored, rows))


def _of(stored: list[OnDisk], ranks: Ranks) -> range:
    """Which of all samples are this process's."""
    return range(ranks.index, sum(map(len, stored)), ranks.count)


def _stored(reader: Reader, name: str) -> OnDisk:
    return opened(reader.place(name)[0], reader.info(name).shape, reader.place(name)[1])


def _rows(stored: list[OnDisk], rows: range) -> Iterator[Tensor]:
    """Some of all samples, (1, T, D) each."""
    for row in rows:
        yield stored[row % len(stored)][torch.tensor([row // len(stored)])]
