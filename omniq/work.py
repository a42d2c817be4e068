"""Work: what an unfinished run keeps on disk, so that the same command goes on at the block where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from omniq.calibrate.run import QuantizedBlock, Streams
from omniq.checkpoint import Reader
from omniq.digests import content_digest
from omniq.errors import ModelError, OutputError
from omniq.shards import write_tensors, write_text

TABLES, ALLOCATION = "tables.safetensors", "allocation.safetensors"
TUNED, LAST = "tuned.safetensors", "last.safetensors"
BLOCK, STREAMS = "block-{:05d}.safetensors", "streams-{:05d}.safetensors"
TOLD = "told.json"
DIGEST = "digest"
"""Where a file's own digest is kept, beside its facts."""


class Work:
    """The folder `.NAME.omniq` beside the output NAME; one process at a time.

    run.json: what the run is (model, data, recipe, seed ...). tables: the packed embedding table and output head,
    where they are quantised. allocation: the bits of every linear, where they were chosen. block-N: the packed
    tensors of block N. streams-N: the hidden states after block N; only the last is kept. Every file appears whole
    or not at all, the block before its streams, and carries its own digest: what is found can be trusted after any
    interruption, and damage is seen. told: what the user was. tuned: what was trained end to end since. last: what
    the last block gives.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.omniq")
        self._run = ""

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
        if not self.unfinished():
            # Stopped before anything was begun, so there is nothing to go on from.
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def unfinished(self) -> bool:
        """Whether a run was begun here and has not been published."""
        return (self.folder / "run.json").is_file()

    def begin(self, identity: Mapping[str, Any], overwrite: bool, streamed: bool) -> int:
        """The first block to do: 0, or where an interrupted run of the same identity stopped.

        streamed: a block counts as done only when the hidden states after it are there too. A run of another identity,
        or one with a damaged file, is refused with the reason, or discarded when `overwrite` says so.
        """
        path = self.folder / "run.json"
        text = json.dumps(identity, indent=2, sort_keys=True, default=str)
        self._run = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if path.is_file():
            done = self._blocks_done(streamed)
            reason = self._reason(path, identity, done, streamed)
            if reason is None:
                return done
            if not overwrite:
                raise OutputError(reason)
        self.clear()
        write_text(path, text)
        return 0

    def _reason(self, path: Path, identity: Mapping[str, Any], done: int, streamed: bool) -> str | None:
        """Why the unfinished run in this folder cannot go on, or None."""
        known = _parsed(path)
        different = [] if known is None else differences(known, identity)
        if different:
            return (
                f"{self.folder} holds an unfinished run with other settings: {'; '.join(different)}. "
                "Give the same settings to go on, or --overwrite to start anew"
            )
        files = [path for path in self._extras() if path.is_file()]
        files += [self.block_path(index) for index in range(done)]
        files += [self.folder / STREAMS.format(done - 1)] if done and streamed else []
        damaged = path if known is None else next((file for file in files if not self._intact(file)), None)
        if damaged is None:
            return None
        return f"{damaged} is damaged, so the unfinished run cannot go on; give --overwrite to start anew"

    def _blocks_done(self, streamed: bool) -> int:
        done = 0
        while self.block_path(done).is_file():
            done += 1
        while streamed and done and not (self.folder / STREAMS.format(done - 1)).is_file():
            done -= 1
        return done

    def _extras(self) -> tuple[Path, ...]:
        """Files beside those of the blocks, which may be there."""
        return self.tables_path(), self.tuned_path(), *(self.folder / name for name in (LAST, ALLOCATION))

    def block_path(self, index: int) -> Path:
        """File of one finished block."""
        return self.folder / BLOCK.format(index)

    def tables_path(self) -> Path:
        """File of the embedding table and the output head, where they are quantised."""
        return self.folder / TABLES

    def tuned_path(self) -> Path:
        """File of what was tuned end to end, which goes before what the blocks hold."""
        return self.folder / TUNED

    def save_tuned(self, tensors: Mapping[str, Tensor], last: Tensor, facts: Mapping[str, str]) -> None:
        """Stores what was tuned end to end, and what the last block gives since for the first batch (b, T, D)."""
        self._write(self.folder / LAST, {"last": last}, {})
        self._write(self.tuned_path(), tensors, facts)

    def tuned_facts(self) -> dict[str, str]:
        """What save_tuned recorded; nothing before that."""
        return Reader(self.tuned_path()).metadata() if self.tuned_path().is_file() else {}

    def last(self) -> Tensor:
        """What save_tuned stored of the last block."""
        return Reader(self.folder / LAST).read("last")

    def save_tables(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores the finished tables."""
        self._write(self.tables_path(), tensors, facts)

    def table_facts(self) -> dict[str, str]:
        """What was recorded with the tables; nothing where there are none."""
        facts = Reader(self.tables_path()).metadata() if self.tables_path().is_file() else {}
        return {key: value for key, value in facts.items() if key != DIGEST}

    def save_allocation(self, facts: Mapping[str, str]) -> None:
        """Stores the bits of every linear."""
        self._write(self.folder / ALLOCATION, {}, facts)

    def allocation(self) -> dict[str, str] | None:
        """What save_allocation stored; None before that."""
        path = self.folder / ALLOCATION
        return Reader(path).metadata() if path.is_file() else None

    def tell(self, sentence: str) -> None:
        """Keeps a sentence that the user was told, once, through any interruption."""
        if sentence not in self.told():
            write_text(self.folder / TOLD, json.dumps({"told": [*self.told(), sentence]}))

    def told(self) -> tuple[str, ...]:
        """Every sentence that tell() kept; none of a file that is damaged."""
        told = (_parsed(self.folder / TOLD) or {}).get("told")
        return tuple(told) if isinstance(told, list) and all(isinstance(one, str) for one in told) else ()

    def save(self, block: QuantizedBlock, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores a finished block and then the streams after it; drops the streams before it."""
        self._write(self.block_path(block.index), tensors, facts)
        if block.streams is not None:
            streams = {"original": block.streams.original, "quantized": block.streams.quantized}
            self._write(self.folder / STREAMS.format(block.index), streams, {})
            with _reported(f"remove a file from {self.folder}"):
                (self.folder / STREAMS.format(block.index - 1)).unlink(missing_ok=True)

    def _write(self, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Writes tensors and facts with their digest."""
        write_tensors(path, tensors, {**facts, DIGEST: self._digest(path, tensors.items(), facts)})

    def _intact(self, path: Path) -> bool:
        """Whether a file holds what this run wrote under that name."""
        try:
            reader = Reader(path)
            facts = reader.metadata()
            known = facts.pop(DIGEST, None)
            return known == self._digest(path, ((name, reader.read(name)) for name in reader.names()), facts)
        except ModelError:
            return False

    def _digest(self, path: Path, tensors: Iterable[tuple[str, Tensor]], facts: Mapping[str, str]) -> str:
        """A hash of a file's content, of its name and of what the run is."""
        return content_digest(tensors, {**facts, "file": path.name, "run": self._run})

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
        with _reported(f"make the folder {path}"):
            path.mkdir()
        return path

    def publish(self, result: Path, overwrite: bool) -> None:
        """Moves the finished checkpoint to its final name in one step and removes the rest."""
        check_free(self.out, overwrite)
        old = self.folder / "replaced"
        with _reported(f"move the finished checkpoint to {self.out}"):
            if self.out.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(self.out, old)
            try:
                os.replace(result, self.out)
            except OSError:
                if old.exists():
                    os.replace(old, self.out)
                raise
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes everything but the lock."""
        with _reported(f"empty the folder {self.folder}"):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()


def check_free(out: Path, overwrite: bool) -> None:
    """Refuses an output path that holds something, unless `overwrite`; never replaces what is not a model folder."""
    if not out.name:
        raise OutputError(f"the output {str(out)!r} is no name of a folder; give one, such as ./model-w4")
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


def check_apart(out: Path, model: Path) -> None:
    """Refuses to replace the very model that is to be quantised."""
    if out.resolve() == model.resolve():
        raise OutputError(f"the output folder {out} is the model itself; choose another")


def _parsed(path: Path) -> dict[str, Any] | None:
    """The values of a JSON file, or None when it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turns a failure of the file system into a sentence about what could not be done."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot {what}: {error.strerror}; run the same command again to go on") from None


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sentences naming every value that differs between two nested mappings."""
    found, wanted = [], json.loads(json.dumps(wanted, default=str))
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
