"""The description in front of a GGUF file, walked through before a library that trusts it is given the file.

Layout, little-endian: magic, version (u32), counts of tensors and of settings (u64); settings as name, type (u32) and
value; tensors as name, number of dimensions (u32), dimensions (u64), type (u32), offset (u64); then, aligned, the data.
A text is its length (u64) and its bytes; a list its type (u32), its length (u64) and its values.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from omniq.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
TEXT, LIST = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type; texts and lists say themselves how long they are."""
LEAST_SETTING, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
MAX_NAME, MAX_DIMS = 1 << 16, 8
MAX_VALUES = 1 << 22
"""Values in all lists together: a reader makes some hundred bytes of each. A large vocabulary has 1.3 million."""
ALIGNMENT, BLOCK_COUNT = "general.alignment", ".block_count"
FEW = 256
"""So many blocks do no harm, whatever the tensors."""
WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)
"""Types of whole numbers."""
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""(values, bytes) of a block by the type of a tensor: floats and whole numbers, then the quantised ones."""


@dataclass
class _Walk:
    """A file on the way through its description. values: of lists, passed so far."""

    path: Path
    file: BinaryIO
    size: int
    values: int = 0

    def wrong(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is no sound GGUF file: {what}; it is damaged or cut off, so copy it again")

    def left(self) -> int:
        """Bytes from here to the end."""
        return self.size - self.file.tell()

    def number(self, width: int) -> int:
        """A whole number of so many bytes."""
        raw = self.file.read(width)
        if len(raw) < width:
            raise self.wrong("it ends in the middle of its description")
        return int.from_bytes(raw, "little")

    def skip(self, count: int) -> None:
        """Passes so many bytes, which must be there."""
        if count > self.left():
            raise self.wrong(f"it claims {count} bytes where {self.left()} are left")
        self.file.seek(count, 1)

    def name(self) -> str:
        """A short text."""
        length = self.number(8)
        if length > min(MAX_NAME, self.left()):
            raise self.wrong(f"it claims a name of {length} bytes")
        try:
            return self.file.read(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong("a name in it is not UTF-8 text") from None

    def value(self, kind: int, name: str) -> int | None:
        """Passes a value; a whole number is given back, read without a sign."""
        if kind == TEXT:
            self.skip(self.number(8))
        elif kind == LIST:
            self._list(name)
        elif kind not in WIDTHS:
            raise self.wrong(f"{name!r} is of the unknown type {kind}")
        elif kind in WHOLE:
            return self.number(WIDTHS[kind])
        else:
            self.skip(WIDTHS[kind])
        return None

    def _list(self, name: str) -> None:
        kind, count = self.number(4), self.number(8)
        if kind == LIST:
            raise self.wrong(f"{name!r} is a list of lists, which no model has")
        self.values += count
        if self.values > MAX_VALUES:
            raise self.wrong(f"its lists claim more than {MAX_VALUES} values, the last of them {name!r}")
        if kind in WIDTHS:
            self.skip(count * WIDTHS[kind])
            return
        for _ in range(count):
            self.value(kind, name)


def check_gguf(path: Path) -> None:
    """Raises ModelError, in a sentence, unless every count, length, shape and offset of a GGUF file fits the file."""
    try:
        with path.open("rb") as file:
            _check(_Walk(path, file, path.stat().st_size))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _check(walk: _Walk) -> None:
    if walk.file.read(len(MAGIC)) != MAGIC:
        raise walk.wrong("it does not begin as one")
    if (version := walk.number(4)) not in VERSIONS:
        raise walk.wrong(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are read")
    tensors, settings = walk.number(8), walk.number(8)
    if tensors * LEAST_TENSOR + settings * LEAST_SETTING > walk.left():
        raise walk.wrong(f"it claims {tensors} tensors and {settings} settings in {walk.size} bytes")
    alignment = _settings(walk, settings, tensors)
    found = [_tensor(walk) for _ in range(tensors)]
    names = [name for name, _, _ in found]
    if len(set(names)) < len(names):
        raise walk.wrong("two of its tensors have one name")
    start = -(-walk.file.tell() // alignment) * alignment
    end = 0
    for name, offset, nbytes in sorted(found, key=lambda tensor: tensor[1]):
        if offset < end or offset % alignment:
            raise walk.wrong(f"tensor {name!r} at {offset} overlaps another or is not aligned")
        end = offset + nbytes
        if start + end > walk.size:
            raise walk.wrong(f"tensor {name!r} ends at byte {start + end} of {walk.size}")


def _settings(walk: _Walk, count: int, tensors: int) -> int:
    """Passes the settings; the alignment of the data, which is one of them. Every block has a tensor at least."""
    seen, alignment = set(), 32
    for _ in range(count):
        name = walk.name()
        if name in seen:
            raise walk.wrong(f"it gives {name!r} twice")
        seen.add(name)
        value = walk.value(walk.number(4), name)
        if name == ALIGNMENT:
            alignment = value or 0
        if name.endswith(BLOCK_COUNT) and (value or 0) > max(FEW, tensors):
            raise walk.wrong(f"{name} is {value}, with {tensors} tensors for all of them")
    if not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise walk.wrong(f"{ALIGNMENT} is not a power of two")
    return alignment


def _tensor(walk: _Walk) -> tuple[str, int, int]:
    """(name, offset into the data, bytes) of the next tensor."""
    name = walk.name()
    dims = walk.number(4)
    if dims > MAX_DIMS:
        raise walk.wrong(f"tensor {name!r} claims {dims} dimensions")
    shape = struct.unpack(f"<{dims}Q", walk.file.read(8 * dims).ljust(8 * dims, b"\0"))
    kind, offset = walk.number(4), walk.number(8)
    if kind not in BLOCKS:
        raise walk.wrong(f"tensor {name!r} is of the unknown type {kind}")
    values, nbytes = BLOCKS[kind]
    if dims and shape[0] % values:
        raise walk.wrong(f"tensor {name!r} has rows of {shape[0]} values, which are no whole blocks of {values}")
    return name, offset, math.prod(shape) // values * nbytes
