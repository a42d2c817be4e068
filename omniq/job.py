"""Job: one model with one recipe, from the opened checkpoint to the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniq import __version__
from omniq.assemble import entries, write_config, write_folder
from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.data import CalibrationData, tokens
from omniq.calibrate.hidden import Room, in_memory
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.run import QuantizedBlock, Settings, Streams, Subject, embed, run
from omniq.calibrate.sampling import sample_from
from omniq.calibrate.telling import block_done, troubles, unreached
from omniq.card import model_card
from omniq.checkpoint import Reader
from omniq.errors import UsageError
from omniq.eval.compare import compare
from omniq.eval.windows import EvalSpec, protocol, windows
from omniq.events import Listener, Notice, Started, ignore
from omniq.finishing import Finishing
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel, load_dense, load_tokenizer
from omniq.made import Made, Quality, Session
from omniq.mixed import allocated
from omniq.packed import packed
from omniq.precision import fast_dtype
from omniq.recipe import Recipe
from omniq.reporting.folder import write_report
from omniq.reporting.gathered import trouble
from omniq.reporting.listening import kept
from omniq.reporting.metrics import keep_metrics, stamped
from omniq.reporting.record import Record
from omniq.rotation.planning import head_spec, linear_specs
from omniq.runtime import forward_of, load
from omniq.shards import Source, write_text
from omniq.spec import LinearSpec
from omniq.verification import Replay, check_copies, check_tables, check_tensors
from omniq.vocab.stored import StoredTables, table_digests
from omniq.work import Work

MAX_SHARD_BYTES = 5_000_000_000


class Job:
    """One model with one recipe, from opening to report.

    ranks: the processes that share its samples. room: makes place for hidden states. resident: hold the codes of all
    blocks in memory while they are tuned end to end.
    """

    def __init__(
        self, model: OpenModel, label: str, recipe: Recipe, device: torch.device, cache: Path, trust_remote_code: bool,
        data: CalibrationData | None = None, ranks: Ranks = ALONE, room: Room = in_memory, resident: bool = True,
    ) -> None:  # fmt: skip
        self.model, self.label, self.recipe, self.cache = model, label, recipe, cache
        self.folder, self.trust = model.folder, trust_remote_code
        self.form = FORMATS[recipe.format]
        self.method = recipe.method()
        specs = linear_specs(model, recipe)
        scales = self.form.scale_dtype(model.dtype)
        self.subject = Subject(model.skeleton, model.blocks, model.read, specs, model.adapter, scales, model.dtype)
        self.blocks = len(self.subject.modules())
        self.ranks, self.resident = ranks, resident
        self.settings = Settings(
            batch=own_batch(recipe, ranks),
            attention=head_spec(model, recipe),
            autocast=fast_dtype(recipe, device),
            device=device,
            seed=recipe.seed,
            search_clips=recipe.clips,
            room=room,
            ranks=ranks,
        )
        self.data, self.given = data, data is not None
        self.resumed_at = 0
        self.calls: BlockCalls | None = None
        self.protocol: str | None = None
        self.tables = StoredTables(model, self.form, self.made().quantization())

    def made(self) -> Made:
        """What becomes of the model, by what is known of its linears so far."""
        return Made(self.model, self.label, self.recipe, self.settings, self.subject.specs, self.data, self.given)

    def identity(self, model_key: str) -> dict[str, Any]:
        """All that decides the result; a run is resumed only when every value is the same."""
        return {
            "model": model_key,
            "config": self.model.raw,
            "recipe": self.recipe.to_dict(),
            "data": self.data.fingerprint if self.data else None,
            "device": self.settings.device.type,
            "matrix products": str(self.settings.autocast or torch.float32),
            "versions": {"omniq": __version__, "torch": torch.__version__},
        }

    def calibrate(self, work: Work, overwrite: bool, on_event: Listener) -> None:
        """Quantises what is left to do, each block stored as it comes."""
        model_key = self.ranks.by_first(self.model.reader.fingerprint)
        if self.recipe.needs_data:
            self.data = self.data or self.ranks.by_first(lambda: self._tokens(model_key))
        start = self.resumed_at = work.begin(self.identity(model_key), overwrite, self.method.needs_data)
        on_event = kept(work, on_event) if self.ranks.first else ignore
        if start and (made := work.facts(start - 1)["made_by"]) != self._made_by():
            on_event(Notice(f"the blocks that are done were made by {made}; sums may differ in their last digits"))
        for sentence in (self.data.description, self.data.notice) if self.data else ():
            if sentence:
                on_event(Notice(sentence))
        self._allocate(work, on_event)
        self._make_tables(work)
        blocks = self._blocks(work, start)
        on_event(Started(self.blocks, start, f"{self.recipe.preset} {self.recipe.label} on {self.label}"))
        for block in blocks:
            tensors, facts = packed(block, self.form, self.model.stored_name)
            done = block_done(block, self.blocks, self.settings.device)
            work.save(block, tensors, {**facts, **stamped(done), "made_by": self._made_by()})
            on_event(done)
            if block.trace.unreached:
                on_event(Notice(unreached(block)))
            del block  # its streams are on disk, and the next block makes its own
        met = {index: found for index in range(self.blocks) if (found := trouble(work.facts(index)))}
        for sentence in troubles(met, self.model.dtype == torch.float16):
            on_event(Notice(sentence))
        self.subject = replace(self.subject, specs=self._found_specs(work))
        self._finish(work, on_event)

    def _finish(self, work: Work, on_event: Listener) -> None:
        """Tunes all blocks end to end, where the preset does."""
        if self.method.finishing is not None:
            student, ids = replace(self.subject, read=self._rounded(work)), self.ranks.sliced(self.data.ids)
            self.calls, streams = embed(student, ids, self.settings)
            finishing = Finishing(
                work, self.form, student, self.model.stored_name, self.settings, self.calls, self.resident
            )
            finishing.run(self.method.finishing, ids, streams.original, self.model.read, on_event)

    def _made_by(self) -> str:
        """What else than the identity decides in which order sums are made."""
        count, threads = self.ranks.count, torch.get_num_threads()
        return f"{count} process{'es' * (count > 1)} of {threads} thread{'s' * (threads > 1)}"

    def _rounded(self, work: Work) -> Callable[[str], Tensor]:
        """Reads the model's parameters, its embedding table and output head as they are stored."""
        if not self.tables.places:
            return self.model.read
        return self.tables.reading(self.tables.read(Reader(work.tables_path())), self.model.read)

    def _allocate(self, work: Work, on_event: Listener) -> None:
        """Gives every linear its weight bits, where there is a budget for them."""
        ids = self.data.ids if self.data else None
        specs = self.ranks.by_first(lambda: allocated(work, self.subject, ids, self.settings, self.recipe))
        self.subject = replace(self.subject, specs=specs)
        self.tables = StoredTables(self.model, self.form, self.made().quantization())
        if words := self.made().allocation():
            on_event(Notice(words))

    def _found_specs(self, work: Work) -> dict[str, LinearSpec]:
        """The spec of every linear as its finished block has it."""
        found = {}
        for index in range(self.blocks):
            found |= json.loads(work.facts(index)["specs"])
        return {name: LinearSpec.parse(found[name]) for name in self.subject.specs}

    def _make_tables(self, work: Work) -> None:
        """Stores the quantised embedding table and output head, unless a run before this one has."""

        def made() -> None:
            tables = self.tables.rounded(self.model.read)
            work.save_tables(self.tables.tensors(tables), table_digests(tables))

        if self.tables.places:
            self.ranks.by_first(lambda: None if work.tables_path().is_file() else made())

    def _blocks(self, work: Work, start: int) -> Iterator[QuantizedBlock]:
        """The blocks from `start` on; the streams that enter are the generator's alone, to drop when they are used."""
        if not self.method.needs_data:
            return run(self.subject, self.method, self.settings, None, start)
        ids = self.ranks.sliced(self.data.ids)
        self.calls, streams = embed(self.subject, ids, self.settings)
        if self.tables.places:
            self.calls, entering = embed(replace(self.subject, read=self._rounded(work)), ids, self.settings)
            streams = Streams(streams.original, entering.original)
        streams = work.streams(start - 1) if start else streams
        return run(self.subject, self.method, self.settings, self.calls, start, streams)

    def _tokens(self, model_key: str) -> CalibrationData:
        tokenizer = load_tokenizer(self.folder, trust_remote_code=self.trust)

        def generate(samples: int, length: int, seed: int) -> Tensor:
            dense = load_dense(self.folder, self.model.dtype, trust_remote_code=self.trust).to(self.settings.device)
            vocab = min(len(tokenizer), self.model.config.vocab_size)
            return sample_from(dense, tokenizer.bos_token_id, samples, length, seed, vocab=vocab)

        return tokens(self.recipe.data, tokenizer, model_key=model_key, generate=generate, cache=self.cache)

    def _stored(self, name: str) -> str:
        """A linear's name in the checkpoint."""
        return self.model.stored_name(f"{name}.weight").removesuffix(".weight")

    def linears(self) -> dict[str, tuple[str, Any, tuple[int, int]]]:
        """module name -> (name in the checkpoint, spec, (N, K))."""
        shape = lambda name: tuple(self.model.skeleton.get_submodule(name).weight.shape)  # noqa: E731
        return {name: (self._stored(name), spec, shape(name)) for name, spec in self.subject.specs.items()}

    def _tensors(self, work: Work) -> Iterator[Source]:
        """All that the finished folder holds, and where it comes from."""
        readers = [Reader(work.block_path(i)) for i in range(self.blocks)]
        readers += [Reader(work.tables_path())] if self.tables.places else []
        readers += [Reader(work.tuned_path())] if work.tuned_path().is_file() else []
        changed = {name for reader in readers for name in reader.names()}
        source = self.model.reader
        replaced = {self.model.stored_name(f"{name}.weight") for name in self.subject.specs} | changed
        replaced |= self.tables.replaced()
        return entries(source, readers, replaced)

    def write(self, work: Work, result: Path) -> None:
        """The finished folder, under a temporary name."""
        write_folder(result, self.folder, self._tensors(work), self.made().config(None), MAX_SHARD_BYTES)

    def tell(self, work: Work, result: Path, session: Session, quality: Quality | None) -> Record:
        """Completes the written folder with what there is to tell: config.json, the model card and the report."""
        made = self.made()
        record = made.record(work, result, session, quality)
        write_config(result, made.config(quality))
        write_text(result / "README.md", model_card(record))
        write_report(record, result)
        keep_metrics(work, result)
        return record

    def verify(self, work: Work, result: Path) -> None:
        """Raises VerificationError unless the written folder holds and computes what was calibrated."""
        digests: dict[str, str] = {}
        for index in range(self.blocks):
            digests |= json.loads(work.facts(index)["digests"])
        tuned = Reader(work.tuned_path()) if work.tuned_path().is_file() else None
        digests |= json.loads(tuned.metadata()["digests"]) if tuned else {}
        check_copies(result, self._tensors(work))
        check_tensors(result, self.form, self.linears(), digests)
        check_tables(result, self.form, self.model, work.table_facts())
        if self.calls is not None:
            reader = Reader(result)
            read = lambda name: reader.read(self.model.stored_name(name))  # noqa: E731
            written = Subject(self.model.skeleton, self.model.blocks, read, self.subject.specs, None, self.model.dtype)
            last = work.last(self.blocks - 1, self.settings.batch)
            Replay(written, self.form, reader, self.linears()).check(self.calls, last, self.settings)

    def windows(self, spec: EvalSpec) -> Tensor:
        """The evaluation windows (B, T), made before calibration so that a text too short fails first."""
        tokenizer = load_tokenizer(self.folder, trust_remote_code=self.trust)
        ids = windows(spec, tokenizer)
        self.protocol = protocol(spec, ids, tokenizer)
        return ids

    def measure(self, result: Path, ids: Tensor, batch: int) -> Quality:
        """Original against the written checkpoint on windows (B, T)."""
        device = self.settings.device
        original = load_dense(self.folder, self.model.dtype, trust_remote_code=self.trust).to(device)
        written = load(result, device, trust_remote_code=self.trust)
        return Quality(compare(forward_of(original), forward_of(written), ids, batch), self.protocol)


def own_batch(recipe: Recipe, ranks: Ranks) -> int:
    """How many sequences one process runs together; UsageError where the processes cannot share the work."""
    if ranks.count > 1 and not recipe.needs_data:
        raise UsageError(f"preset {recipe.preset!r} reads no text that {ranks.count} processes could share; start one")
    if recipe.batch_size % ranks.count:
        raise UsageError(
            f"{ranks.count} processes cannot share batches of {recipe.batch_size} sequences; give --batch-size "
            f"{ranks.count} or a multiple of it"
        )
    return recipe.batch_size // ranks.count
