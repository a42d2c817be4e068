"""What is put into a child to make something fail: reads, the size of files, privileges, a bit of what was written."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class SmallFiles:
    """No file may become longer than so many bytes."""

    nbytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.nbytes, self.nbytes))


@dataclass(frozen=True)
class Reads:
    """Python's reads of files below `root`: from number `first` on, those of one file go wrong; or all are short.

    kind: fails (EIO), ends (no more bytes, in files that say how long they are), or short (fewer bytes than asked for).
    """

    root: str
    kind: str
    first: int
    seed: int

    def __call__(self) -> None:
        state = {"reads": 0, "victim": None}
        random, fault = Random(self.seed), self

        class Raw(io.FileIO):
            def readinto(self, buffer) -> int:
                view = memoryview(buffer).cast("B")
                if fault.kind == "short":
                    view = view[: random.randint(1, max(1, len(view)))]
                elif fault.strikes(state, str(self.name)):
                    if fault.kind == "ends":
                        return 0
                    raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)
                return super().readinto(view)

            def read(self, size: int = -1) -> bytes:
                if size is None or size < 0:
                    return self.readall()
                buffer = bytearray(size)
                return bytes(buffer[: self.readinto(buffer)])

            def readall(self) -> bytes:
                parts = []
                while part := self.read(1 << 16):
                    parts.append(part)
                return b"".join(parts)

        plain = io.open

        def opening(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""
            if not str(path).startswith(self.root) or set(mode) & set("wax+"):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(path, "r")
            if buffering == 0:
                return raw
            reader = io.BufferedReader(raw)
            return reader if "b" in mode else io.TextIOWrapper(reader, encoding, errors, newline)

        io.open = builtins.open = opening

    def strikes(self, state: dict, name: str) -> bool:
        """Whether this read is one of those that go wrong: all of one file, from the first on."""
        if self.kind == "ends" and not name.endswith((".safetensors", ".json")):
            return False
        state["reads"] += 1
        if state["victim"] is None and state["reads"] > self.first:
            state["victim"] = name
        return state["victim"] == name


@dataclass(frozen=True)
class FlipOnRead:
    """A bit of the weights in `folder` is inverted right before they are first read. where: share of the file."""

    folder: str
    where: float
    bit: int

    def __call__(self) -> None:
        done = []

        def hook(event: str, args: tuple) -> None:
            if event != "open" or done or not isinstance(args[1], str) or args[1][:1] != "r":
                return
            path = Path(os.fsdecode(args[0])) if isinstance(args[0], (str, os.PathLike)) else Path()
            if str(path.parent) != self.folder or path.suffix != ".safetensors":
                return
            done.append(path)
            raw = bytearray(path.read_bytes())
            raw[int(self.where * len(raw))] ^= 1 << self.bit
            path.write_bytes(raw)

        sys.addaudithook(hook)


def without_privilege() -> None:
    """The superuser's right to write where permissions forbid it is given up."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
