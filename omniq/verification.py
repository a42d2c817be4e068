"""Before success is reported: what was written reads back as what was calibrated, in numbers and in output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.run import Settings, Subject, assign
from omniq.calibrate.view import activation_grids, precision
from omniq.checkpoint import Reader
from omniq.digests import parts_digest, tensor_digest, weight_digest
from omniq.errors import VerificationError
from omniq.formats.base import Format
from omniq.formats.reading import read_linear
from omniq.hf import OpenModel
from omniq.shards import Source
from omniq.source import config_values
from omniq.spec import LinearSpec
from omniq.vocab.stored import StoredTables, table_digests

TOLERANCE = 1e-5
"""Relative squared difference of the last hidden states: the numbers are the same, the order of sums may differ."""


def check_tensors(
    result: Path,
    form: Format,
    linears: Mapping[str, tuple[str, LinearSpec, tuple[int, int]]],
    digests: Mapping[str, str],
) -> None:
    """Unpacks every linear of the written folder and compares its weight with what calibration computed.

    linears: module name -> (name in the checkpoint, spec, (N, K)). digests: name -> hash of the calibrated weight, or
    of a folded parameter by its checkpoint name.
    """
    reader = Reader(result)
    for name, (stored, spec, shape) in linears.items():
        if weight_digest(read_linear(form, reader, stored, spec, shape)) != digests[name]:
            raise VerificationError(
                f"{name} reads back from {result} as other numbers than were calibrated; do not use this checkpoint"
            )
    for name in digests.keys() - linears.keys():
        if tensor_digest(reader.read(name)) != digests[name]:
            raise VerificationError(
                f"{name} reads back from {result} as other numbers than were calibrated; do not use this checkpoint"
            )


def check_copies(result: Path, tensors: Iterator[Source]) -> None:
    """Reads every tensor of the written folder again and compares its bytes with those it was written from."""
    written = Reader(result)
    for name, info, make in tensors:
        if written.info(name) != info or parts_digest(info, written.parts(name)) != tensor_digest(make()):
            raise VerificationError(
                f"{name} reads back from {result} otherwise than it was written; check the disk, and do not use this "
                "checkpoint"
            )


def check_tables(result: Path, form: Format, model: OpenModel, digests: Mapping[str, str]) -> None:
    """Reads embedding table and head of the written folder by its own config, and compares them with what was made.

    model: the original. digests: of table_digests; empty where nothing is quantised.
    """
    tables = StoredTables(model, form, config_values(result)["quantization_config"])
    if table_digests(tables.read(Reader(result))) != digests:
        raise VerificationError(
            f"the embedding table reads back from {result} as other numbers than were made; do not use this checkpoint"
        )


TINY = torch.finfo(torch.float32).tiny


class Replay:
    """Runs the first batch through the written checkpoint, a block at a time, against the calibrated stream."""

    def __init__(
        self,
        written: Subject,
        form: Format,
        reader: Reader,
        linears: Mapping[str, tuple[str, LinearSpec, tuple[int, int]]],
    ) -> None:
        self.written, self.form, self.reader, self.linears = written, form, reader, linears

    def parameter(self, name: str) -> Tensor:
        """A parameter of the skeleton as the checkpoint stands for it, float32."""
        module = name.removesuffix(".weight")
        if module not in self.linears:
            return self.written.read(name).float()
        stored, spec, shape = self.linears[module]
        return read_linear(self.form, self.reader, stored, spec, shape).dequantize()

    @torch.no_grad()
    def check(self, calls: BlockCalls, last: Tensor, settings: Settings) -> None:
        """last: what calibration had after the last block for the first batch, or for its first samples (b, T, D)."""
        hidden = calls.first[: len(last)].to(settings.device)
        for index, module in enumerate(self.written.modules()):
            prefix = f"{self.written.blocks}.{index}."
            meta = dict(module.named_parameters())
            assign(module, ((name, self.parameter(prefix + name).to(settings.device)) for name in meta))
            specs = {n.removeprefix(prefix): s for n, s in self.written.specs.items() if n.startswith(prefix)}
            with activation_grids(module, specs, settings.attention):
                hidden = self._called(calls, index, module, hidden, settings)
            assign(module, meta.items())
        wanted = last.to(settings.device)
        # A model may give nothing but zeros.
        error = float((hidden - wanted).square().mean() / wanted.square().mean().clamp(min=TINY))
        if not error <= TOLERANCE:
            raise VerificationError(
                f"the written checkpoint computes other hidden states than calibration did (difference {error:.1e})"
            )

    @staticmethod
    def _called(calls: BlockCalls, index: int, module: torch.nn.Module, hidden: Tensor, settings: Settings) -> Tensor:
        with precision(hidden.device, settings.autocast):
            return calls.forward(index, module, hidden).float()
