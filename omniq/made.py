"""Made: what one run makes of a model, as the entries of its config.json and as the record that reports are made of."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from omniq import __version__
from omniq.calibrate.data import CalibrationData
from omniq.calibrate.run import Settings
from omniq.card import original_facts, without_path
from omniq.costs import sizes
from omniq.eval.compare import Comparison
from omniq.eval.size import checkpoint_bytes
from omniq.formats.base import FORMATS
from omniq.hf import VERSION, OpenModel
from omniq.howto.command import quantize_command
from omniq.memory import device_peak
from omniq.mixed import allocation_in_words
from omniq.planning import bits_per_weight, notes, table_of
from omniq.recipe import Recipe
from omniq.report import Report
from omniq.reporting.gathered import block_records, tuning, tuning_skipped
from omniq.reporting.record import Record
from omniq.rotation.planning import head_spec
from omniq.spec import LinearSpec
from omniq.text import is_local
from omniq.vocab.planning import loaders
from omniq.vocab.stored import quantization_entry
from omniq.work import Work

YOURS = "YOUR_TEXT"
"""Stands in the command for calibration tokens that were given as such."""


@dataclass(frozen=True)
class Session:
    """The session that finished a run. seconds: it took; peak: bytes it held; resumed_at: the block it began with."""

    seconds: float
    peak: int
    resumed_at: int


@dataclass(frozen=True)
class Quality:
    """What was measured, and by which protocol."""

    measured: Comparison
    protocol: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self.measured), "protocol": self.protocol}


@dataclass(frozen=True)
class Made:
    """label: as the user named the model. specs: of every linear, as they are by now. given: whether the calibration
    tokens came as such rather than from what the recipe names.
    """

    model: OpenModel
    label: str
    recipe: Recipe
    settings: Settings
    specs: Mapping[str, LinearSpec]
    data: CalibrationData | None
    given: bool

    @property
    def base(self) -> str:
        """The hub id of the original, or the name of its folder: no path of this machine."""
        return Path(self.label).expanduser().resolve().name if self.from_here() else self.label

    def from_here(self) -> bool:
        """Whether the original is a folder or a file of this machine."""
        return Path(self.label).expanduser().exists()

    def table(self) -> str | None:
        """How embedding and head are quantised, None where they are not."""
        table = table_of(self.model, self.recipe)
        return table and str(table)

    def quantization(self) -> dict[str, Any]:
        """The entry `quantization_config` of the finished config.json."""
        form, table = FORMATS[self.recipe.format], table_of(self.model, self.recipe)
        return quantization_entry(self.model, form, self.specs, table)

    def loaders(self) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each."""
        form, table = FORMATS[self.recipe.format], table_of(self.model, self.recipe)
        return loaders(self.model, form, self.specs.values(), table, head_spec(self.model, self.recipe))

    def allocation(self) -> str | None:
        """Which bits the linears have, for people; None without a budget."""
        return None if self.recipe.avg_bits is None else allocation_in_words(self.model, self.specs)

    def bits_per_weight(self) -> float:
        """Of what is quantised, scales included."""
        return bits_per_weight(self.model, self.recipe, self.specs)

    def described(self) -> str | None:
        """The calibration data in words, without where on this machine they lie."""
        return None if self.data is None else self.without_place(self.data.description)

    def without_place(self, sentence: str) -> str:
        """A sentence with paths of this machine cut to the names of their files."""
        source = self.recipe.data.source
        short = sentence.replace(source, Path(source).name) if is_local(source) else sentence
        return short.replace(self.label, self.base) if self.from_here() else short

    def config(self, quality: Quality | None) -> dict[str, Any]:
        """The source's config with the quantization entry every loader reads, and omniq's own record.

        Its recipe names the calibration text as the user did, so that an audit can make the same again.
        """
        values = dict(self.model.raw)
        values["quantization_config"] = self.quantization()
        values["omniq"] = {
            "version": __version__,
            "recipe": self.recipe.to_dict(),
            "attention": None if self.settings.attention is None else self.settings.attention.__dict__,
            "data": self.described(),
            "data_fingerprint": self.data.fingerprint if self.data else None,
            "bits_per_weight": round(self.bits_per_weight(), 4),
            "allocation": self.allocation(),
            "base_model": self.base,
            "versions": {"torch": torch.__version__},
            "quality": None if quality is None else quality.to_dict(),
        }
        return values

    def command(self) -> str:
        """What to type to make it again."""
        source = self.recipe.data.source
        public = YOURS if self.given else Path(source).name if is_local(source) else source
        return quantize_command(replace(self.recipe, data=replace(self.recipe.data, source=public)), self.base)

    def record(self, work: Work, result: Path, session: Session, quality: Quality | None) -> Record:
        """Everything there is to tell of the finished run; result: the written checkpoint."""
        shape = lambda name: tuple(self.model.skeleton.get_submodule(name).weight.shape)  # noqa: E731
        device = self.settings.device
        return Record(
            base=self.base,
            from_hub=not self.from_here(),
            card=original_facts(self.model.folder),
            scheme=self.recipe.label,
            preset=self.recipe.preset,
            format=self.recipe.format,
            command=self.command(),
            recipe=without_path(self.recipe.to_dict()),
            bits_per_weight=self.bits_per_weight(),
            tables=self.table(),
            allocation=self.allocation(),
            size_before=checkpoint_bytes(self.model.folder),
            size_after=checkpoint_bytes(result),
            parameters=sizes(self.model).total,
            loaders=self.loaders(),
            data=self.described(),
            data_fingerprint=self.data.fingerprint if self.data else None,
            versions=versions(),
            device=device.type,
            threads=torch.get_num_threads(),
            date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            seconds=session.seconds,
            resumed_at=session.resumed_at,
            peak_memory=session.peak,
            device_peak=device_peak(device),
            notices=tuple(map(self.without_place, work.told())),
            notes=tuple(notes(self.model, self.recipe)),
            tuned=tuning(work),
            tuned_skipped=tuning_skipped(work),
            quality=None if quality is None else quality.to_dict(),
            blocks=block_records(work, self.blocks(), {name: shape(name) for name in self.specs}),
        )

    def blocks(self) -> int:
        """How many decoder blocks there are."""
        return len(self.model.skeleton.get_submodule(self.model.blocks))


def versions() -> dict[str, str]:
    """Of what computes the result."""
    return {
        "omniq": __version__,
        "torch": torch.__version__,
        "transformers": VERSION,
        "python": platform.python_version(),
    }


def report(out: Path, record: Record) -> Report:
    """What the user is told of a run at its end."""
    found = record.quality or {}
    return Report(
        out=str(out),
        scheme=record.scheme,
        preset=record.preset,
        bits_per_weight=record.bits_per_weight,
        size_before=record.size_before,
        size_after=record.size_after,
        seconds=record.seconds,
        peak_memory=record.peak_memory,
        skipped_steps=record.skipped_steps,
        loaders=record.loaders,
        verified=True,
        tables=record.tables,
        allocation=record.allocation,
        **{key: found.get(key) for key in ("ppl_original", "ppl", "kl", "top1", "protocol")},
    )
