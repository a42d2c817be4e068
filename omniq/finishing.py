"""Finishing: scales and norms of all blocks tuned end to end after the last one, kept beside the blocks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.endtoend import EndToEnd, Trainer, Tuned
from omniq.calibrate.finished import Finished
from omniq.calibrate.hidden import Hidden
from omniq.calibrate.run import Read, Settings, Subject
from omniq.checkpoint import Reader
from omniq.digests import tensor_digest, weight_digest
from omniq.events import Listener, Notice, Step
from omniq.formats.base import Format
from omniq.formats.reading import read_linear
from omniq.qtensor import QTensor
from omniq.work import Work


class ReadAnew(Mapping[str, QTensor]):
    """Linears by name, each read whenever it is asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], QTensor]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> QTensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Finishing:
    """subject: the model with its final specs. stored_name: a parameter's name in the checkpoint.

    resident: hold the codes of all blocks in memory, else they are read again whenever their block's turn comes.
    """

    work: Work
    form: Format
    subject: Subject
    stored_name: Callable[[str], str]
    settings: Settings
    calls: BlockCalls
    resident: bool = True

    def run(self, spec: EndToEnd, ids: Tensor, first: Hidden, original: Read, on_event: Listener) -> None:
        """Tunes what the blocks hold on this process's ids (B, T), unless that is done already.

        first: what enters block 0 (B, T, D). original: reads the original's parameters outside the blocks.
        """
        if self.work.tuned_path().is_file():
            return
        count, began = len(self.subject.modules()), time.perf_counter()
        target = self.work.streams(count - 1).original
        blocks = [self._finished(index) for index in range(count)]

        def told(step: int, total: int, kl: float) -> None:
            on_event(Step(step, total, f"end to end: KL {kl:.4f}", time.perf_counter() - began))

        with Trainer(self.subject, self.calls, self.settings, ids, first, target, blocks, original) as trainer:
            tuned = trainer.tuned(spec, told)
        self.settings.ranks.by_first(lambda: self._save(tuned))
        left = f"; {tuned.skipped} steps were skipped (gradient not finite)" if tuned.skipped else ""
        on_event(Notice(f"end to end, on sequences held out: KL {tuned.kl_before:.4f} -> {tuned.kl_after:.4f}{left}"))

    def _finished(self, index: int) -> Finished:
        """A block as it was stored."""
        prefix = f"{self.subject.blocks}.{index}."
        reader, module = Reader(self.work.block_path(index)), self.subject.modules()[index]
        own = {full.removeprefix(prefix): spec for full, spec in self.subject.specs.items() if full.startswith(prefix)}
        floats = {}

        def linear(name: str) -> QTensor:
            shape = tuple(module.get_submodule(name).weight.shape)
            return read_linear(self.form, reader, self._stored(prefix + name), own[name], shape)

        linears = {name: linear(name) for name in own} if self.resident else ReadAnew(tuple(own), linear)
        changed = set(reader.names())
        for name, _ in module.named_parameters():
            if name.removesuffix(".weight") not in linears:
                stored = self.stored_name(prefix + name)
                floats[name] = (reader.read(stored) if stored in changed else self.subject.read(prefix + name)).float()
        return Finished(linears, floats, self.subject.storage, self.subject.floats)

    def _stored(self, linear: str) -> str:
        return self.stored_name(f"{linear}.weight").removesuffix(".weight")

    def _save(self, tuned: Tuned) -> None:
        """Stores every tensor that is another one than in its block's file, and the digests of all."""
        tensors, digests = {}, {}
        for index, block in enumerate(tuned.blocks):
            prefix = f"{self.subject.blocks}.{index}."
            linears, vectors = block.results()
            for name, q in linears.items():
                before = self.form.pack(block.linears[name])
                packed = self.form.pack(q).items()
                stored = self._stored(prefix + name)
                tensors |= {f"{stored}.{leaf}": t for leaf, t in packed if not t.equal(before[leaf])}
                digests[prefix + name] = weight_digest(q)
            for name, vector in vectors.items():
                tensors[self.stored_name(prefix + name)] = vector
                digests[self.stored_name(prefix + name)] = tensor_digest(vector)
        facts = {"kl_before": str(tuned.kl_before), "kl_after": str(tuned.kl_after), "digests": json.dumps(digests)}
        facts["skipped"] = str(tuned.skipped)
        self.work.save_tuned(tensors, tuned.last, facts)
