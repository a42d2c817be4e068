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
from omniq.assemble import entries, write_folder, write_texts
from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.data import CalibrationData, tokens
from omniq.calibrate.run import QuantizedBlock, Settings, Streams, Subject, embed, run
from omniq.calibrate.sampling import sample_from
from omniq.calibrate.telling import block_done, unreached
from omniq.card import model_card
from omniq.checkpoint import Reader
from omniq.eval.compare import Comparison, compare
from omniq.eval.size import checkpoint_bytes
from omniq.eval.windows import EvalSpec, protocol, windows
from omniq.events import Listener, Notice, Started
from omniq.finishing import Finishing
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel, load_dense, load_tokenizer
from omniq.mixed import allocated, allocation_in_words
from omniq.packed import packed
from omniq.planning import bits_per_weight, table_of
from omniq.precision import fast_dtype
from omniq.recipe import Recipe
from omniq.report import Report
from omniq.rotation.planning import head_spec, linear_specs
from omniq.runtime import forward_of, load
from omniq.spec import LinearSpec
from omniq.verification import Replay, check_tables, check_tensors
from omniq.vocab.planning import loaders
from omniq.vocab.stored import StoredTables, quantization_entry, table_digests
from omniq.work import Work

MAX_SHARD_BYTES = 5_000_000_000


class Job:
    """One model with one recipe, from opening to report."""

    def __init__(
        self, model: OpenModel, label: str, recipe: Recipe, device: torch.device, cache: Path, trust_remote_code: bool
    ) -> None:
        self.model, self.label, self.recipe, self.cache = model, label, recipe, cache
        self.folder, self.trust = model.folder, trust_remote_code
        self.form = FORMATS[recipe.format]
        self.method = recipe.method()
        specs = linear_specs(model, recipe)
        self.subject = Subject(model.skeleton, model.blocks, model.read, specs, model.adapter, model.dtype)
        self.blocks = len(self.subject.modules())
        self.settings = Settings(
            batch=recipe.batch_size,
            attention=head_spec(model, recipe),
            autocast=fast_dtype(recipe, device),
            device=device,
            seed=recipe.seed,
            search_clips=recipe.clips,
        )
        self.data: CalibrationData | None = None
        self.calls: BlockCalls | None = None
        self.protocol: str | None = None
        self.table = table_of(model, recipe)
        self.tables = StoredTables(model, self.form, self.quantization())

    def identity(self, model_key: str) -> dict[str, Any]:
        """All that decides the result; a run is resumed only when every value is the same."""
        return {
            "model": model_key,
            "config": self.model.raw,
            "recipe": self.recipe.to_dict(),
            "data": self.data.fingerprint if self.data else None,
            "device": self.settings.device.type,
            "matrix products": str(self.settings.autocast or torch.float32),
            "threads": torch.get_num_threads(),
            "versions": {"omniq": __version__, "torch": torch.__version__},
        }

    def calibrate(self, work: Work, overwrite: bool, on_event: Listener) -> None:
        """Quantises what is left to do, each block stored as it comes."""
        model_key = self.model.reader.fingerprint()
        if self.recipe.needs_data:
            self.data = self._tokens(model_key)
            for sentence in (self.data.description, self.data.notice):
                if sentence:
                    on_event(Notice(sentence))
        start = work.begin(self.identity(model_key), overwrite, self.method.needs_data)
        self._allocate(work, on_event)
        self._make_tables(work)
        blocks = self._blocks(work, start)
        on_event(Started(self.blocks, start, f"{self.recipe.preset} {self.recipe.label} on {self.label}"))
        for block in blocks:
            work.save(block, *packed(block, self.form, self.model.stored_name))
            on_event(block_done(block, self.blocks))
            if block.trace.unreached:
                on_event(Notice(unreached(block)))
            del block  # its streams are on disk, and the next block makes its own
        self.subject = replace(self.subject, specs=self._found_specs(work))
        self._finish(work, on_event)

    def _finish(self, work: Work, on_event: Listener) -> None:
        """Tunes all blocks end to end, where the preset does."""
        if self.method.finishing is not None:
            student = replace(self.subject, read=self._rounded(work))
            self.calls, streams = embed(student, self.data.ids, self.settings)
            finishing = Finishing(work, self.form, student, self.model.stored_name, self.settings, self.calls)
            finishing.run(self.method.finishing, self.data.ids, streams.original, self.model.read, on_event)

    def _rounded(self, work: Work) -> Callable[[str], Tensor]:
        """Reads the model's parameters, its embedding table and output head as they are stored."""
        if not self.tables.places:
            return self.model.read
        return self.tables.reading(self.tables.read(Reader(work.tables_path())), self.model.read)

    def _allocate(self, work: Work, on_event: Listener) -> None:
        """Gives every linear its weight bits, where there is a budget for them."""
        ids = self.data.ids if self.data else None
        specs = allocated(work, self.subject, ids, self.settings, self.recipe)
        self.subject = replace(self.subject, specs=specs)
        self.tables = StoredTables(self.model, self.form, self.quantization())
        if words := self.allocation():
            on_event(Notice(words))

    def allocation(self) -> str | None:
        """Which bits the linears have, for people; None without a budget."""
        return None if self.recipe.avg_bits is None else allocation_in_words(self.model, self.subject.specs)

    def _found_specs(self, work: Work) -> dict[str, LinearSpec]:
        """The spec of every linear as its finished block has it."""
        found = {}
        for index in range(self.blocks):
            found |= json.loads(work.facts(index)["specs"])
        return {name: LinearSpec.parse(found[name]) for name in self.subject.specs}

    def _make_tables(self, work: Work) -> None:
        """Stores the quantised embedding table and output head, unless a run before this one has."""
        if self.tables.places and not work.tables_path().is_file():
            made = self.tables.rounded(self.model.read)
            work.save_tables(self.tables.tensors(made), table_digests(made))

    def _blocks(self, work: Work, start: int) -> Iterator[QuantizedBlock]:
        """The blocks from `start` on; the streams that enter are the generator's alone, to drop when they are used."""
        if not self.method.needs_data:
            return run(self.subject, self.method, self.settings, None, start)
        self.calls, streams = embed(self.subject, self.data.ids, self.settings)
        if self.tables.places:
            self.calls, entering = embed(replace(self.subject, read=self._rounded(work)), self.data.ids, self.settings)
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

    def write(self, work: Work, result: Path, measured: Comparison | None) -> None:
        """The finished folder, under a temporary name."""
        readers = [Reader(work.block_path(i)) for i in range(self.blocks)]
        readers += [Reader(work.tables_path())] if self.tables.places else []
        readers += [Reader(work.tuned_path())] if work.tuned_path().is_file() else []
        changed = {name for reader in readers for name in reader.names()}
        source = self.model.reader
        replaced = {self.model.stored_name(f"{name}.weight") for name in self.subject.specs} | changed
        replaced |= self.tables.replaced()
        write_folder(
            result,
            self.folder,
            entries(source, readers, replaced),
            self.config(measured),
            self.card(measured),
            MAX_SHARD_BYTES,
        )

    def write_config(self, result: Path, measured: Comparison | None) -> None:
        """config.json and the card again, now with what was measured."""
        write_texts(result, self.config(measured), self.card(measured))

    def quantization(self) -> dict[str, Any]:
        """The entry `quantization_config` of the finished config.json."""
        return quantization_entry(self.model, self.form, self.subject.specs, self.table)

    def loaders(self) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each."""
        return loaders(self.model, self.form, self.subject.specs.values(), self.table)

    def config(self, measured: Comparison | None) -> dict[str, Any]:
        """The source's config with the quantization entry every loader reads, and omniq's own record."""
        values = dict(self.model.raw)
        values["quantization_config"] = self.quantization()
        values["omniq"] = {
            "version": __version__,
            "recipe": self.recipe.to_dict(),
            "attention": None if self.settings.attention is None else self.settings.attention.__dict__,
            "data": self.data.description if self.data else None,
            "data_fingerprint": self.data.fingerprint if self.data else None,
            "bits_per_weight": round(self.bits_per_weight(), 4),
            "allocation": self.allocation(),
            "base_model": Path(self.label).name if Path(self.label).exists() else self.label,
            "versions": {"torch": torch.__version__},
            "quality": None if measured is None else measured.__dict__ | {"protocol": self.protocol},
        }
        return values

    def card(self, measured: Comparison | None) -> str:
        """README.md of the checkpoint."""
        return model_card(
            self.label,
            self.recipe,
            self.bits_per_weight(),
            self.data,
            measured,
            self.protocol,
            self.loaders(),
            self.table and str(self.table),
            self.allocation(),
        )

    def bits_per_weight(self) -> float:
        """Of what is quantised, scales included."""
        return bits_per_weight(self.model, self.recipe, self.subject.specs)

    def verify(self, work: Work, result: Path) -> None:
        """Raises VerificationError unless the written folder holds and computes what was calibrated."""
        digests: dict[str, str] = {}
        for index in range(self.blocks):
            digests |= json.loads(work.facts(index)["digests"])
        tuned = Reader(work.tuned_path()) if work.tuned_path().is_file() else None
        digests |= json.loads(tuned.metadata()["digests"]) if tuned else {}
        check_tensors(result, self.form, self.linears(), digests)
        check_tables(result, self.form, self.model, work.table_facts())
        if self.calls is not None:
            reader = Reader(result)
            read = lambda name: reader.read(self.model.stored_name(name))  # noqa: E731
            written = Subject(self.model.skeleton, self.model.blocks, read, self.subject.specs, None, self.model.dtype)
            streams = None if tuned else work.streams(self.blocks - 1)
            last = work.last() if tuned else streams.quantized[: self.settings.batch]
            Replay(written, self.form, reader, self.linears()).check(self.calls, last, self.settings)

    def windows(self, spec: EvalSpec) -> Tensor:
        """The evaluation windows (B, T), made before calibration so that a text too short fails first."""
        tokenizer = load_tokenizer(self.folder, trust_remote_code=self.trust)
        ids = windows(spec, tokenizer)
        self.protocol = protocol(spec, ids, tokenizer)
        return ids

    def measure(self, result: Path, ids: Tensor, batch: int) -> Comparison:
        """Original against the written checkpoint on windows (B, T)."""
        device = self.settings.device
        original = load_dense(self.folder, self.model.dtype, trust_remote_code=self.trust).to(device)
        return compare(forward_of(original), forward_of(load(result, device, trust_remote_code=self.trust)), ids, batch)

    def report(self, out: Path, seconds: float, peak: int, skipped: int, measured: Comparison | None) -> Report:
        """What was done and measured."""
        quality = (
            {}
            if measured is None
            else {k: v for k, v in measured.__dict__.items() if k != "tokens"} | {"protocol": self.protocol}
        )
        return Report(
            out=str(out),
            scheme=self.recipe.label,
            preset=self.recipe.preset,
            bits_per_weight=self.bits_per_weight(),
            size_before=checkpoint_bytes(self.folder),
            size_after=checkpoint_bytes(out),
            seconds=seconds,
            peak_memory=peak,
            skipped_steps=skipped,
            loaders=self.loaders(),
            verified=True,
            tables=self.table and str(self.table),
            allocation=self.allocation(),
            **quality,
        )
