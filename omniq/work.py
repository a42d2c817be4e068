"""Work: what an unfinished run keeps on disk, so that the same command goes on at the block where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from omniq import stored_streams
from omniq.calibrate.hidden import Room, in_memory
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.run import QuantizedBlock, Streams
from omniq.checkpoint import Reader
from omniq.differences import differences, kept_values
from omniq.errors import OutputError
from omniq.folder_lock import taken
from omniq.sealed import Seal, facts_of
from omniq.shards import write_text

TABLES, ALLOCATION = "tables.safetensors", "allocation.safetensors"
TUNED, LAST = "tuned.safetensors", "last.safetensors"
BLOCK, TOLD, LOCK = "block-{:05d}.safetensors", "told.json", "lock"
RUN, PUBLISHED, RESULT = "run.json", "published.json", "result"
PROCESSES = "processes"


class Work:
    """The folder `.NAME.omniq` beside the output NAME; one job at a time.

    run.json: what the run is (model, data, recipe, seed ...). tables: the packed embedding table and output head,
    where they are quantised. allocation: the bits of every linear, where they were chosen. block-N: the packed
    tensors of block N. streams-N: the hidden states after block N; only the last are kept. Every file appears whole
    or not at all, the streams before their block, and carries its own digest: what is found can be trusted after any
    interruption, and damage is seen. published.json: run.json, from right before the result is moved to its place.
    told: what the user was. tuned: what was trained end to end since. last: what the last block gives.

    ranks: the processes of the job, which all see the folder; the first writes, but for the streams. room: makes place
    for the streams that are read.
    """

    def __init__(self, out: Path, ranks: Ranks = ALONE, room: Room = in_memory) -> None:
        self.out, self.ranks, self.room = out, ranks, room
        self.folder = work_folder(out)
        self.seal = Seal("")

    def __enter__(self) -> Work:
        self.ranks.by_first(self._locked)
        return self

    def _locked(self) -> None:
        """Makes the folder, for this job alone."""
        try:
            lock = taken(self.folder / LOCK)
        except OSError as error:
            raise OutputError(
                f"cannot write beside {self.out}: {error.strerror}; choose another output folder"
            ) from None
        if lock is None:
            raise OutputError(
                f"another omniq process is writing {self.out}; wait for it or choose another output folder"
            )
        self._lock = lock
        self._reopen()

    def __exit__(self, *_: object) -> None:
        if not self.ranks.first:
            return
        self._reopen()
        if not self.unfinished():  # published, or stopped before anything was begun
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def unfinished(self) -> bool:
        """Whether a run was begun here and has not been published."""
        return (self.folder / RUN).is_file()

    def _reopen(self) -> None:
        """Makes a run that was stopped right before its result was moved to its place one to go on with."""
        published = self.folder / PUBLISHED
        if published.is_file() and (self.folder / RESULT).is_dir():
            os.replace(published, self.folder / RUN)

    def begin(self, identity: Mapping[str, Any], overwrite: bool, streamed: bool) -> int:
        """The first block to do: 0, or where an interrupted run of the same identity stopped.

        streamed: a block counts as done only when the hidden states after it are there too. A run of another identity,
        or one with a damaged file, is refused with the reason, or discarded when `overwrite` says so. The identity is
        that of the first process.
        """
        text = self.ranks.told(json.dumps(identity, indent=2, sort_keys=True, default=str))
        self.seal = Seal(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
        return self.ranks.by_first(lambda: self._begun(identity, text, overwrite, streamed))

    def _begun(self, identity: Mapping[str, Any], text: str, overwrite: bool, streamed: bool) -> int:
        path = self.folder / RUN
        check_free(self.out, overwrite)  # another may have finished it while this one read its model
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
        known = kept_values(path)
        different = [] if known is None else differences(known, identity)
        if different:
            return (
                f"{self.folder} holds an unfinished run with other settings: {'; '.join(different)}. "
                "Give the same settings to go on, or --overwrite to start anew"
            )
        files = [path for path in self._extras() if path.is_file()]
        files += [self.block_path(index) for index in range(done)]
        files += stored_streams.files(self.folder, done - 1) if done and streamed else []
        damaged = path if known is None else next((file for file in files if not self.seal.intact(file)), None)
        if damaged is None:
            return None
        return f"{damaged} is damaged, so the unfinished run cannot go on; give --overwrite to start anew"

    def _blocks_done(self, streamed: bool) -> int:
        done = 0
        while self.block_path(done).is_file():
            done += 1
        while streamed and done and not stored_streams.files(self.folder, done - 1):
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
        self.seal.write(self.folder / LAST, {"last": last}, {PROCESSES: str(self.ranks.count)})
        self.seal.write(self.tuned_path(), tensors, facts)

    def tuned_facts(self) -> dict[str, str]:
        """What save_tuned recorded; nothing before that."""
        return facts_of(self.tuned_path())

    def last(self, index: int, batch: int) -> Tensor:
        """What block `index`, the last one, gives for this process's first samples (b, T, D)."""
        if self.tuned_path().is_file():
            last = Reader(self.folder / LAST).read("last")
            # Another number of processes had other samples in its first batch, but for the first of all.
            return last if facts_of(self.folder / LAST).get(PROCESSES) == str(self.ranks.count) else last[:1]
        return stored_streams.first(self.folder, index, self.ranks, batch)

    def save_tables(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores the finished tables."""
        self.seal.write(self.tables_path(), tensors, facts)

    def table_facts(self) -> dict[str, str]:
        """What was recorded with the tables; nothing where there are none."""
        return facts_of(self.tables_path())

    def save_allocation(self, facts: Mapping[str, str]) -> None:
        """Stores the bits of every linear."""
        self.seal.write(self.folder / ALLOCATION, {}, facts)

    def allocation(self) -> dict[str, str] | None:
        """What save_allocation stored; None before that."""
        return facts_of(self.folder / ALLOCATION) or None

    def tell(self, sentence: str) -> None:
        """Keeps a sentence that the user was told, once, through any interruption."""
        if sentence not in self.told():
            write_text(self.folder / TOLD, json.dumps({"told": [*self.told(), sentence]}))

    def told(self) -> tuple[str, ...]:
        """Every sentence that tell() kept; none of a file that is damaged."""
        told = (kept_values(self.folder / TOLD) or {}).get("told")
        return tuple(told) if isinstance(told, list) and all(isinstance(one, str) for one in told) else ()

    def save(self, block: QuantizedBlock, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores the streams after a finished block, then the block, which is done with that; drops older streams."""
        if block.streams is not None:
            stored_streams.save(self.folder, self.seal, block.index, block.streams, self.ranks)
            self.ranks.gathered("saved")
        self.ranks.by_first(lambda: self._close(block.index, tensors, facts))

    def _close(self, index: int, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Stores a block whose streams are there, and removes all other streams."""
        with _reported(f"remove a file from {self.folder}"):
            stored_streams.drop_rivals(self.folder, index, self.ranks)
            self.seal.write(self.block_path(index), tensors, facts)
            stored_streams.drop_before(self.folder, index)

    def streams(self, index: int) -> Streams:
        """The hidden states of this process's samples after block `index`."""
        return stored_streams.read(self.folder, index, self.ranks, self.room)

    def facts(self, index: int) -> dict[str, str]:
        """What was recorded with a finished block."""
        return facts_of(self.block_path(index))

    def result(self) -> Path:
        """An empty folder for the finished checkpoint, on the same disk as the output."""
        path = self.folder / RESULT
        shutil.rmtree(path, ignore_errors=True)
        with _reported(f"make the folder {path}"):
            path.mkdir()
        return path

    def publish(self, result: Path, overwrite: bool) -> None:
        """Moves the finished checkpoint to its final name in one step; what is left is removed in the end."""
        check_free(self.out, overwrite)
        old = self.folder / "replaced"
        with _reported(f"move the finished checkpoint to {self.out}"):
            if self.unfinished():
                os.replace(self.folder / RUN, self.folder / PUBLISHED)
            if self.out.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(self.out, old)
            try:
                os.replace(result, self.out)
            except OSError:
                if old.exists():
                    os.replace(old, self.out)
                raise

    def clear(self) -> None:
        """Removes everything but the lock."""
        with _reported(f"empty the folder {self.folder}"):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()


def work_folder(out: Path) -> Path:
    """Where the unfinished run that will write `out` is kept."""
    return out.with_name(f".{out.name}.omniq")


def check_free(out: Path, overwrite: bool) -> None:
    """Refuses an output path that holds something, unless `overwrite`; never replaces what is not a model folder."""
    if not out.name:
        raise OutputError(f"the output {str(out)!r} is no name of a folder; give one, such as ./model-w4")
    if out.is_file():
        raise OutputError(f"the output {out} is a file; give a folder that does not exist yet")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        tidy(out)
        raise OutputError(f"the output folder {out} is not empty; choose another or give --overwrite")
    if not (out / "config.json").is_file():
        raise OutputError(
            f"the output folder {out} holds files but no config.json, so it is not a model; refusing to replace it"
        )


def tidy(out: Path) -> None:
    """Removes the work folder beside a finished output, should the run have been stopped before it could."""
    if Work(out).folder.is_dir():
        with suppress(OutputError), Work(out):
            pass


def check_apart(out: Path, model: Path) -> None:
    """Refuses to replace the very model that is to be quantised."""
    if out.resolve() == model.resolve():
        raise OutputError(f"the output folder {out} is the model itself; choose another")


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turns a failure of the file system into a sentence about what could not be done."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot {what}: {error.strerror}; run the same command again to go on") from None
