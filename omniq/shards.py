"""Writing checkpoints: one tensor in memory at a time, and nothing under a final name before it is complete."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from omniq.checkpoint import INDEX_FILE, SINGLE_FILE
from omniq.errors import OutputError
from omniq.header import TensorInfo, encode_header

Values = Tensor | Iterable[Tensor]
"""A tensor, or its parts one after another."""
Source = tuple[str, TensorInfo, Callable[[], Values]]
"""A tensor to write: its name, what it is, and the function that makes it when its turn comes."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def tensor_info(tensor: Tensor) -> TensorInfo:
    """What `tensor` is, for writing it."""
    return TensorInfo(tensor.dtype, tuple(tensor.shape))


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one step: under `path` is the old file or the whole new one, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, raw: bytes) -> None:
    """Writes a file in one step, as write_text does."""
    with _atomic(path, len(raw)) as file:
        _write_all(file, memoryview(raw))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors that are in memory already as one safetensors file, in one step."""
    sources = [(name, tensor_info(tensor), lambda tensor=tensor: tensor) for name, tensor in tensors.items()]
    write_safetensors(path, sources, metadata)


def write_safetensors(path: Path, entries: Iterable[Source], metadata: Mapping[str, str] | None = None) -> None:
    """Writes one safetensors file in one step, holding one tensor at a time.

    Wider dtypes come first, as the safetensors library itself writes them, so that every tensor is aligned.
    """
    ordered = sorted(entries, key=lambda source: -source[1].dtype.itemsize)
    infos = {name: info for name, info, _ in ordered}
    if len(infos) < len(ordered):
        raise ValueError(f"{path}: a tensor name is given twice")
    header = encode_header(infos, metadata or {"format": "pt"})
    with _atomic(path, len(header) + sum(info.nbytes for info in infos.values())) as file:
        _write_all(file, memoryview(header))
        for name, info, make in ordered:
            _write_tensor(file, name, info, make())


def write_model(folder: Path, entries: Iterable[Source], max_shard_bytes: int = 5_000_000_000) -> tuple[Path, ...]:
    """Writes model.safetensors, or shards of at most `max_shard_bytes` with their index; the paths written.

    When a file cannot be written, those written before it are removed.
    """
    shards = _shards(list(entries), max_shard_bytes)
    names = [SINGLE_FILE] if len(shards) == 1 else _shard_names(len(shards))
    written: list[Path] = []
    try:
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(folder / name, shard)
            written.append(folder / name)
        if len(shards) > 1:
            write_text(folder / INDEX_FILE, _index(names, shards))
            written.append(folder / INDEX_FILE)
    except OutputError:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return tuple(written)


def _shards(entries: list[Source], max_bytes: int) -> list[list[Source]]:
    """Entries in their order, cut into runs of at most `max_bytes` (a larger tensor is a run of its own)."""
    shards: list[list[Source]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry[1].nbytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry[1].nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _index(names: list[str], shards: list[list[Source]]) -> str:
    """The text of model.safetensors.index.json."""
    weight_map = {entry[0]: name for name, shard in zip(names, shards, strict=True) for entry in shard}
    total = sum(entry[1].nbytes for shard in shards for entry in shard)
    return json.dumps({"metadata": {"format": "pt", "total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


@contextmanager
def _atomic(path: Path, nbytes: int) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, after its data is on disk; otherwise nothing does."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(_failure(path, nbytes, error)) from None
    finally:
        _remove(temporary)


def _failure(path: Path, nbytes: int, error: OSError) -> str:
    if error.errno in NO_ROOM:
        return (
            f"the disk is full: {path} needs {nbytes} bytes ({error.strerror}); free some space or use another folder"
        )
    return f"cannot write {path} ({nbytes} bytes): {error.strerror}"


def _remove(path: Path) -> None:
    """Deletes the temporary file if it is still there; a folder that is gone or closed to us needs no cleaning."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _sync_folder(folder: Path) -> None:
    """Puts the rename on disk too, where folders can be synchronised (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_tensor(file: BinaryIO, name: str, info: TensorInfo, made: Values) -> None:
    if isinstance(made, Tensor) and tensor_info(made) != info:
        raise ValueError(f"tensor {name!r} is {tensor_info(made)}, announced as {info}")
    written = 0
    for part in (made,) if isinstance(made, Tensor) else made:
        flat = part.detach().to("cpu", info.dtype).contiguous().view(-1)
        _write_all(file, memoryview(flat.view(torch.uint8).numpy()))
        written += flat.nbytes
    if written != info.nbytes:
        raise ValueError(f"tensor {name!r} came as {written} bytes, announced as {info}")


def _write_all(file: BinaryIO, data: memoryview) -> None:
    """Writes every byte (one write takes at most 2 GiB)."""
    done = 0
    while done < len(data):
        done += file.write(data[done:])
