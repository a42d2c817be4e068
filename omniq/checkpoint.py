"""Reader: the tensors of a model folder, one at a time, with every description checked before use.

Tensors are read into fresh memory, never mapped: a model larger than the memory allowed is read a tensor at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from omniq.errors import ModelError
from omniq.header import MAX_HEADER_BYTES, Header, TensorInfo, json_object, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HASH_READ_BYTES = 1 << 20
PART = 1 << 26
"""Bytes of a tensor that are read together where it is read in parts."""
LOOKED_AT = 1 << 22
"""Values that are checked together: a mask of a whole tensor would be half as large as the tensor."""


class Reader:
    """The safetensors of one folder (or one .safetensors file). Every header is checked before any data is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        weight_map = _weight_map(path)
        self._files = _single_files(path) if weight_map is None else _indexed_files(path, weight_map)
        self._headers = {file: _checked_header(file) for file in self._files}
        self._where = _where(self._headers)
        if weight_map is not None:
            _check_index(path, weight_map, self._where)
            self._where = {name: self._where[name] for name in weight_map}
        self._fingerprint: str | None = None

    def names(self) -> tuple[str, ...]:
        """Every tensor name."""
        return tuple(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def info(self, name: str) -> TensorInfo:
        """dtype, shape and bytes of one tensor."""
        return self._headers[self._file(name)].entries[name].info

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        info = self.info(name)
        flat = self._bytes(name, 0, info.nbytes)
        return flat.view(info.dtype).view(info.shape)

    def parts(self, name: str) -> Iterator[Tensor]:
        """The bytes of one tensor, PART at a time."""
        total = self.info(name).nbytes
        return (self._bytes(name, first, min(PART, total - first)) for first in range(0, total, PART))

    def place(self, name: str) -> tuple[Path, int]:
        """The file of one tensor, and the byte where it begins."""
        path = self._file(name)
        return path, self._headers[path].entries[name].start

    def _bytes(self, name: str, first: int, count: int) -> Tensor:
        """Some bytes of one tensor, uint8."""
        path, start = self.place(name)
        flat = torch.empty(count, dtype=torch.uint8)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start + first)
                filled = _fill(file, memoryview(flat.numpy()))
        except OSError as error:
            raise ModelError(f"cannot read tensor {name!r} from {path}: {error.strerror}") from None
        if filled < count:
            raise ModelError(
                f"{path} became shorter while it was read: tensor {name!r} is cut off; copy the file again"
            )
        return flat

    def files(self) -> tuple[Path, ...]:
        """The files the tensors are in."""
        return self._files

    def metadata(self) -> dict[str, str]:
        """The free-form metadata of all files together; a later file wins."""
        return {key: value for header in self._headers.values() for key, value in header.metadata.items()}

    def fingerprint(self) -> str:
        """blake2b of the names and contents of all files, as hexadecimal; computed once."""
        if self._fingerprint is None:
            digest = hashlib.blake2b(digest_size=32)
            for path in self._files:
                _hash_file(path, digest)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _file(self, name: str) -> Path:
        if name not in self._where:
            raise ModelError(f"{self._path} holds no tensor {name!r}; it is incomplete or belongs to another model")
        return self._where[name]


def without_nan(tensor: Tensor, name: str) -> Tensor:
    """The tensor itself; ModelError when one of its values is not a number."""
    if any(bool(torch.isnan(part).any()) for part in tensor.reshape(-1).split(LOOKED_AT)):
        raise ModelError(
            f"tensor {name!r} has NaN values; the checkpoint is damaged or the training that made it diverged"
        )
    return tensor


def _hash_file(path: Path, digest: hashlib.blake2b) -> None:
    """Adds the name, the size and the contents of one file to `digest`."""
    try:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(HASH_READ_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _fill(file: BinaryIO, buffer: memoryview) -> int:
    """Reads until `buffer` is full or the file ends (one read gives at most 2 GiB); the number of bytes read."""
    done = 0
    while done < len(buffer) and (count := file.readinto(buffer[done:])):
        done += count
    return done


def _weight_map(path: Path) -> dict[str, str] | None:
    """tensor name -> file name from the folder's index; None where one file holds everything."""
    index = path / INDEX_FILE
    if path.is_file() or (path / SINGLE_FILE).is_file() or not index.is_file():
        return None
    try:
        if index.stat().st_size > MAX_HEADER_BYTES:
            raise ModelError(f"{index} is {index.stat().st_size} bytes; an index has at most {MAX_HEADER_BYTES}")
        values = json_object(index.read_bytes(), index).get("weight_map")
    except OSError as error:
        raise ModelError(f"cannot read {index}: {error.strerror}") from None
    if not isinstance(values, dict) or not values or not all(isinstance(value, str) for value in values.values()):
        raise ModelError(f"{index} has no usable weight_map: expected tensor names with the file each is in")
    for name, file in values.items():
        if not _is_plain(file):
            raise ModelError(
                f"{index} places tensor {name!r} in {file!r}; expected the plain name of a .safetensors file"
            )
    return values


def _is_plain(name: str) -> bool:
    return name.endswith(".safetensors") and not set(name) & set("/\\:\0") and not name.startswith("..")


def _single_files(path: Path) -> tuple[Path, ...]:
    """The one safetensors file of a folder without an index."""
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise ModelError(f"{path} does not exist; give the folder of a model (config.json and safetensors files)")
    if (path / SINGLE_FILE).is_file():
        return (path / SINGLE_FILE,)
    found = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    if len(found) == 1:
        return (found[0],)
    if found:
        raise ModelError(
            f"{path} holds {len(found)} safetensors files but no {INDEX_FILE}, so which to read is unclear; add it"
        )
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise ModelError(
            f"{path} holds weights as Python pickles only, which can run code; convert them to safetensors first"
        )
    raise ModelError(
        f"{path} holds no safetensors file; give the folder of a model (config.json and safetensors files)"
    )


def _indexed_files(path: Path, weight_map: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that the index names, each of which must exist."""
    files = tuple(path / name for name in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{path} lacks {', '.join(missing)}, which {INDEX_FILE} names; the copy is incomplete, so copy it again"
        )
    return files


def _checked_header(path: Path) -> Header:
    try:
        return read_header(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _where(headers: Mapping[Path, Header]) -> dict[str, Path]:
    """tensor name -> its file; a tensor that is in two files is refused."""
    where: dict[str, Path] = {}
    for path, header in headers.items():
        for name in header.entries:
            if name in where:
                raise ModelError(
                    f"tensor {name!r} is in both {where[name].name} and {path.name} of {path.parent}; remove one"
                )
            where[name] = path
    return where


def _check_index(path: Path, weight_map: Mapping[str, str], where: Mapping[str, Path]) -> None:
    """Raises ModelError unless every tensor is in the file that the index names."""
    for name, file in weight_map.items():
        if name not in where or where[name].name != file:
            raise ModelError(
                f"{path / INDEX_FILE} places tensor {name!r} in {file}, which does not hold it; copy the folder again"
            )
