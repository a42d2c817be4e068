"""The header of a safetensors file: parsed with every claim checked against the file, and written.

Layout: 8 bytes little-endian length, that many bytes of JSON, then the data of the tensors without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omniq.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
PREFIX_BYTES = 8
METADATA_KEY = "__metadata__"
MAX_DIMS = 64
"""torch has no tensor of more."""
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What a tensor in a file is, without its data."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: what it is, and where its data starts, counted from the start of the file."""

    info: TensorInfo
    start: int


@dataclass(frozen=True)
class Header:
    """Everything in front of the data: entries by tensor name in order of their data, and the free-form metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file; ModelError names the file and the tensor whose claim is false."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(PREFIX_BYTES)
        if len(prefix) < PREFIX_BYTES:
            raise ModelError(f"{path} is {size} bytes long, too short to be a safetensors file; copy it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES or length > size - PREFIX_BYTES:
            raise ModelError(
                f"{path} claims a header of {length} bytes in a file of {size} bytes (at most {MAX_HEADER_BYTES}); "
                "it is truncated or not a safetensors file, so copy it again"
            )
        values = json_object(file.read(length), path)
    metadata = _metadata(values.pop(METADATA_KEY, {}), path)
    data_start = PREFIX_BYTES + length
    entries = {name: _entry(path, name, value, data_start) for name, value in values.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].info.nbytes)))
    _check_cover(path, ordered, data_start, size)
    return Header(ordered, metadata)


def json_object(raw: bytes, path: Path) -> dict[str, Any]:
    """JSON bytes -> a mapping; anything else, or a key that comes twice, is a ModelError that names `path`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ModelError(f"{path} names {key!r} twice; such a file is damaged, so copy or convert it again")
            found[key] = value
        return found

    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} does not hold valid JSON where its description should be ({error}); copy it again"
        ) from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {type(values).__name__} where a JSON object should be; copy it again")
    return values


def _metadata(values: Any, path: Path) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ModelError(f"{path}: {METADATA_KEY} must map names to strings; convert the file again")
    return values


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_shape(value: Any) -> bool:
    small = isinstance(value, list) and len(value) <= MAX_DIMS and all(map(_is_count, value))
    return small and _is_count(math.prod(n or 1 for n in value))


def _entry(path: Path, name: str, value: Any, data_start: int) -> Entry:
    """One JSON entry -> Entry, with dtype, shape and offsets checked against each other."""
    place = f"{path}: tensor {name!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{place} is described by {value!r}; expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{place} has dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if not _is_shape(shape):
        raise ModelError(
            f"{place} has shape {shape!r}; expected a list of at most {MAX_DIMS} integers that are not negative, below "
            "2**63 together"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ModelError(f"{place} has data_offsets {offsets!r}; expected two integers that are not negative")
    info = TensorInfo(DTYPES[dtype], tuple(shape))
    if offsets[1] - offsets[0] != info.nbytes:
        raise ModelError(
            f"{place} has data_offsets {offsets}, but {dtype} {shape} takes {info.nbytes} bytes; copy the file again"
        )
    return Entry(info, data_start + offsets[0])


def _check_cover(path: Path, entries: Mapping[str, Entry], data_start: int, size: int) -> None:
    """Raises ModelError unless the tensors fill the data of the file exactly: no gap, no overlap, no missing tail."""
    at = data_start
    for name, entry in entries.items():
        if entry.start != at:
            what = (
                "overlaps the tensor before it"
                if entry.start < at
                else f"leaves {entry.start - at} bytes unused before it"
            )
            raise ModelError(f"{path}: tensor {name!r} {what}; the file is damaged, so copy it again")
        at += entry.info.nbytes
        if at > size:
            raise ModelError(
                f"{path} is truncated: tensor {name!r} ends at byte {at} of a file of {size} bytes; copy it again"
            )
    if at != size:
        raise ModelError(f"{path} has {size - at} bytes after its last tensor; the file is damaged, so copy it again")


def encode_header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The bytes in front of the data of tensors stored in the order of `infos`; the data then starts 8-byte aligned."""
    values: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    at = 0
    for name, info in infos.items():
        offsets = [at, at + info.nbytes]
        values[name] = {"dtype": DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": offsets}
        at += info.nbytes
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
