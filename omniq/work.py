"""Work: what an unfinished run keeps on disk, so that the same command goes on at the block where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omniq.calibrate.run import QuantizedBlock, Streams
from omniq.checkpoint import Reader
from omniq.errors import OutputError
from omniq.shards import write_tensors, write_text

BLOCK, STREAMS = "block-{:05d}.safetensors", "streams-{:05d}.safetensors"


class Work:
    """The folder `.NAME.omniq` beside the output NAME; one process at a time.

    run.json: what the run is (model, data, recipe, seed ...). block-N: the packed tensors of block N. streams-N: the
    hidden states after block N; only the last is kept. Every file appears whole or not at all, the block before its
    streams, so what is found can be trusted after any interruption.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.omniq")

    def __enter__(self) -> Work:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise OutputError(
                f"cannot write beside {self.out}: {error.strerror}; choose another output folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise OutputError(
                f"another omniq process is writing {self.out}; wait for it or choose another output folder"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def begin(self, identity: Mapping[str, Any], overwrite: bool, streamed: bool) -> int:
        """The first block to do: 0, or where an interrupted run of the same identity stopped.

        streamed: a block counts as done only when the hidden states after it are there too.

        A run of another identity is refused with the differences named, or discarded when `overwrite` says so.
        """
        path = self.folder / "run.json"
        if path.is_file():
            known = _parsed(path)
            different = differences(known, identity)
            if not different:
                return self._blocks_done(streamed)
            if not overwrite:
                raise OutputError(
                    f"{self.folder} holds an unfinished run with other settings: {'; '.join(different)}. "
                    "Give the same settings to go on, or --overwrite to start anew"
                )
            self.clear()
        write_text(path, json.dumps(identity, indent=2, sort_keys=True, default=str))
        return 0

    def _blocks_done(self, streamed: bool) -> int:
        done = 0
        while self.block_path(done).is_file():
            done += 1
        while streamed and done and not (self.folder / STREAMS.format(done - 1)).is_file():
            done -= 1
        return done

    def block_path(self, index: int) -> Path:
        """File of one finished block."""
        return self.folder / BLOCK.format(index)

    def save(self, block: QuantizedBlock, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores a finished block and then the streams after it; drops the streams before it."""
        write_tensors(self.block_path(block.index), tensors, dict(facts))
        if block.streams is not None:
            streams = {"original": block.streams.original, "quantized": block.streams.quantized}
            write_tensors(self.folder / STREAMS.format(block.index), streams, {})
            (self.folder / STREAMS.format(block.index - 1)).unlink(missing_ok=True)

    def streams(self, index: int) -> Streams:
        """The hidden states after block `index`."""
        reader = Reader(self.folder / STREAMS.format(index))
        return Streams(reader.read("original"), reader.read("quantized"))

    def facts(self, index: int) -> dict[str, str]:
        """What was recorded with a finished block."""
        return Reader(self.block_path(index)).metadata()

    def result(self) -> Path:
        """An empty folder for the finished checkpoint, on the same disk as the output."""
        path = self.folder / "result"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def publish(self, result: Path, overwrite: bool) -> None:
        """Moves the finished checkpoint to its final name in one step and removes the rest."""
        check_free(self.out, overwrite)
        old = self.folder / "replaced"
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(result, self.out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes everything but the lock."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()


def check_free(out: Path, overwrite: bool) -> None:
    """Refuses an output path that holds something, unless `overwrite`; never replaces what is not a model folder."""
    if out.is_file():
        raise OutputError(f"the output {out} is a file; give a folder that does not exist yet")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"the output folder {out} is not empty; choose another or give --overwrite")
    if not (out / "config.json").is_file():
        raise OutputError(
            f"the output folder {out} holds files but no config.json, so it is not a model; refusing to replace it"
        )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} is damaged ({error}); remove {path.parent} to start anew") from None


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sentences naming every value that differs between two nested mappings."""
    found = []
    wanted = json.loads(json.dumps(wanted, default=str))
    for key in sorted(set(known) | set(wanted)):
        a, b = known.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, now {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
