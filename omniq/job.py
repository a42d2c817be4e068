"""Job: one model with one recipe, from the opened checkpoint to the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniq import __version__
from omniq.assemble import entries, write_folder, write_texts
from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.data import CalibrationData, tokens
from omniq.calibrate.run import QuantizedBlock, Settings, Subject, embed, run
from omniq.calibrate.sampling import sample_from
from omniq.card import model_card
from omniq.checkpoint import Reader
from omniq.digests import tensor_digest, weight_digest
from omniq.eval.compare import Comparison, compare
from omniq.eval.size import checkpoint_bytes
from omniq.eval.windows import EvalSpec, protocol, windows
from omniq.events import BlockDone, Listener, Notice, Started
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel, load_dense, load_tokenizer
from omniq.planning import bits_per_weight
from omniq.recipe import Recipe
from omniq.report import Report
from omniq.runtime import forward_of, load
from omniq.verification import Replay, check_tensors
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
        specs = dict.fromkeys(model.linears, recipe.scheme)
        self.subject = Subject(model.skeleton, model.blocks, model.read, specs, model.adapter, model.dtype)
        self.blocks = len(self.subject.modules())
        self.settings = Settings(
            batch=recipe.batch_size,
            attention=recipe.scheme.input if recipe.attention and model.attention_hook else None,
            autocast=fast_dtype(recipe, device),
            device=device,
            seed=recipe.seed,
        )
        self.data: CalibrationData | None = None
        self.calls: BlockCalls | None = None
        self.protocol: str | None = None

    def identity(self, model_key: str) -> dict[str, Any]:
        """All that decides the result; a run is resumed only when every value is the same."""
        return {
            "model": model_key,
            "config": json.loads((self.folder / "config.json").read_text(encoding="utf-8")),
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
        if self.method.needs_data:
            self.data = self._tokens(model_key)
            for sentence in (self.data.description, self.data.notice):
                if sentence:
                    on_event(Notice(sentence))
        start = work.begin(self.identity(model_key), overwrite, self.data is not None)
        blocks = self._blocks(work, start)
        on_event(Started(self.blocks, start, f"{self.recipe.preset} {self.recipe.scheme} on {self.label}"))
        for block in blocks:
            work.save(block, *self._packed(block))
            on_event(_done(block, self.blocks))
            if block.trace.unreached:
                on_event(Notice(_unreached(block)))
            del block  # its streams are on disk, and the next block makes its own

    def _blocks(self, work: Work, start: int) -> Iterator[QuantizedBlock]:
        """The blocks from `start` on; the streams that enter are the generator's alone, to drop when they are used."""
        if self.data is None:
            return run(self.subject, self.method, self.settings, None, start)
        self.calls, streams = embed(self.subject, self.data.ids, self.settings)
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

    def _packed(self, block: QuantizedBlock) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A finished block as named tensors, and the facts to keep: hashes of what was calibrated, and losses."""
        tensors, digests = {}, {}
        for name, q, _ in block:
            tensors |= {f"{self._stored(name)}.{leaf}": tensor for leaf, tensor in self.form.pack(q).items()}
            digests[name] = weight_digest(q)
        for name, tensor in block.floats.items():
            tensors[self.model.stored_name(name)] = tensor
            digests[self.model.stored_name(name)] = tensor_digest(tensor)
        facts = {
            "digests": json.dumps(digests),
            "error": str(block.error),
            "seconds": f"{block.seconds:.3f}",
            "loss_before": str(block.trace.before),
            "loss_after": str(block.trace.after),
            "skipped_steps": str(block.trace.skipped_steps),
            "unreached": json.dumps(block.trace.unreached),
        }
        return tensors, facts

    def linears(self) -> dict[str, tuple[str, Any, tuple[int, int]]]:
        """module name -> (name in the checkpoint, spec, (N, K))."""
        shape = lambda name: tuple(self.model.skeleton.get_submodule(name).weight.shape)  # noqa: E731
        return {name: (self._stored(name), spec, shape(name)) for name, spec in self.subject.specs.items()}

    def write(self, work: Work, result: Path, measured: Comparison | None) -> None:
        """The finished folder, under a temporary name."""
        readers = [Reader(work.block_path(i)) for i in range(self.blocks)]
        changed = {name for reader in readers for name in reader.names()}
        source = self.model.reader
        replaced = {self.model.stored_name(f"{name}.weight") for name in self.subject.specs} | changed
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

    def config(self, measured: Comparison | None) -> dict[str, Any]:
        """The source's config with the quantization entry every loader reads, and omniq's own record."""
        values = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        ignored = tuple(self.model.skipped) + self.model.dense_linears()
        names = {self._stored(name): spec for name, spec in self.subject.specs.items()}
        layers = (self.model.skeleton.get_submodule(name) for name in self.subject.specs)
        expand = any(type(layer) is not torch.nn.Linear for layer in layers)
        values["quantization_config"] = self.form.config(names, tuple(map(self._stored, ignored)), expand)
        values["omniq"] = {
            "version": __version__,
            "recipe": self.recipe.to_dict(),
            "attention": None if self.settings.attention is None else self.settings.attention.__dict__,
            "data": self.data.description if self.data else None,
            "data_fingerprint": self.data.fingerprint if self.data else None,
            "bits_per_weight": round(bits_per_weight(self.model, self.recipe), 4),
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
            bits_per_weight(self.model, self.recipe),
            self.data,
            measured,
            self.protocol,
            self.form.loaded_by(self.recipe.scheme),
        )

    def verify(self, work: Work, result: Path) -> None:
        """Raises VerificationError unless the written folder holds and computes what was calibrated."""
        digests: dict[str, str] = {}
        for index in range(self.blocks):
            digests |= json.loads(work.facts(index)["digests"])
        check_tensors(result, self.form, self.linears(), digests)
        if self.calls is not None:
            reader = Reader(result)
            read = lambda name: reader.read(self.model.stored_name(name))  # noqa: E731
            written = Subject(self.model.skeleton, self.model.blocks, read, self.subject.specs, None, self.model.dtype)
            last = work.streams(self.blocks - 1).quantized[: self.settings.batch]
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
            scheme=str(self.recipe.scheme),
            preset=self.recipe.preset,
            bits_per_weight=bits_per_weight(self.model, self.recipe),
            size_before=checkpoint_bytes(self.folder),
            size_after=checkpoint_bytes(out),
            seconds=seconds,
            peak_memory=peak,
            skipped_steps=skipped,
            loaders=self.form.loaded_by(self.recipe.scheme),
            verified=True,
            **quality,
        )


def _done(block: QuantizedBlock, blocks: int) -> BlockDone:
    after = block.error if block.trace.after is None else block.trace.after
    return BlockDone(block.index, blocks, block.seconds, block.trace.before, after, block.trace.skipped_steps)


def _unreached(block: QuantizedBlock) -> str:
    """The sentence about linears that no calibration token reached."""
    names = block.trace.unreached
    return (
        f"block {block.index}: no calibration token reached {len(names)} linears ({names[0]}, ...), so they are "
        "rounded by their weights alone; more samples would reach them"
    )


def fast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies it fast and the grid is coarser (below 8 bits); else None, float32."""
    finest = max(recipe.scheme.weight.bits, recipe.scheme.input.bits if recipe.scheme.input else 0)
    fast = (
        torch.cuda.is_bf16_supported() if device.type == "cuda" else bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    return torch.bfloat16 if fast and finest < 8 else None
