"""Every checkpoint format of omniq.formats as a target: the same integers, packed by that format."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omniq.assemble import entries, write_folder
from omniq.checkpoint import Reader
from omniq.errors import OmniqError, UnsupportedError
from omniq.eval.size import checkpoint_bytes
from omniq.events import Listener
from omniq.exporting.base import TARGETS, Choices, which_can
from omniq.exporting.checking import check_ordinary, check_quantized, same_numbers
from omniq.exporting.origin import Layer, Origin
from omniq.exporting.record import export_card, exported_config, finish
from omniq.exporting.telling import Told
from omniq.formats.base import FORMATS, Format
from omniq.qtensor import QTensor
from omniq.shards import write_tensors
from omniq.vocab.planning import loaders
from omniq.vocab.stored import StoredTables, quantization_entry

PARTS = ".parts"
PART_BYTES = 1 << 26


class Layout:
    """The target that writes one format of the registry."""

    suffix = None
    dtypes: tuple[torch.dtype, ...] = ()

    def __init__(self, name: str, form: Format) -> None:
        self.name, self.form = name, form
        self.summary = "the same integers; omniq quantize writes it too"
        self.loaders = form.loaders

    def refuse(self, origin: Origin, choices: Choices) -> str | None:
        """Why the checkpoint cannot be said in this layout, or None."""
        for layer in origin.layers:
            if reason := self.form.refuse(layer.spec, layer.shape):
                return f"{layer.name} as {layer.spec}: {reason}"
        specs = [layer.spec for layer in origin.layers]
        if reason := self.form.refuse_mixed(specs, origin.model.has_own_linears()):
            return reason
        if origin.table is not None and self.form.tables is None:
            return f"the embedding table as {origin.table}: this layout keeps tables in floating point"
        try:
            self.entry(origin)
        except UnsupportedError as error:
            return str(error)
        return None

    def entry(self, origin: Origin) -> dict[str, object]:
        """The `quantization_config` of the result."""
        specs = {layer.name: layer.spec for layer in origin.layers}
        return quantization_entry(origin.model, self.form, specs, origin.table)

    def loaded_by(self, origin: Origin) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each."""
        specs = (layer.spec for layer in origin.layers)
        return loaders(origin.model, self.form, specs, origin.table, origin.attention)

    def nbytes(self, origin: Origin, choices: Choices) -> int:
        """Bytes of weights: as many as now, since all layouts store the same codes, scales and zero points."""
        return checkpoint_bytes(origin.folder)

    def write(self, origin: Origin, result: Path, choices: Choices, on_event: Listener) -> tuple[str, ...]:
        """Packs the linears into files of a few at a time, then assembles the folder from those and the source."""
        told = Told(origin, on_event, f"{origin.format} to {self.name}")
        parts = result.with_name(result.name + PARTS)
        parts.mkdir()
        readers = list(self._parts(origin, parts, told))
        entry = self.entry(origin)
        if origin.table is not None:
            tables = StoredTables(origin.model, self.form, entry).tensors(origin.tables())
            readers.append(_stored(parts / "tables.safetensors", tables))
        replaced = {*origin.model.reader.names()} - {*origin.ordinary()}
        tensors = entries(origin.model.reader, readers, replaced)
        config = exported_config(origin, self.name, entry)
        write_folder(result, origin.folder, tensors, config, choices.max_shard_bytes)
        finish(result, export_card(origin, self.name, self.loaded_by(origin), packed=True))
        shutil.rmtree(parts)
        return ()

    def _parts(self, origin: Origin, folder: Path, told: Told) -> Iterator[Reader]:
        """The packed linears, in files of about PART_BYTES: a file for each would take longer to write than to pack."""
        pending: dict[str, Tensor] = {}
        for number, layer in enumerate(origin.layers):
            pending |= {f"{layer.stored}.{leaf}": tensor for leaf, tensor in self.packed(origin, layer).items()}
            if sum(tensor.nbytes for tensor in pending.values()) >= PART_BYTES or layer is origin.layers[-1]:
                yield _stored(folder / f"{number}.safetensors", pending)
                pending = {}
            told(layer)

    def verify(self, origin: Origin, result: Path, choices: Choices) -> None:
        """Reads every linear, table and other tensor back and compares the numbers."""
        check_quantized(origin, result)
        check_ordinary(origin, Reader(result))

    def packed(self, origin: Origin, layer: Layer) -> dict[str, Tensor]:
        """One linear in this layout, by leaf name; UnsupportedError where its very numbers do not fit."""
        q = settled(origin.weight(layer), origin.model.dtype)
        tensors, reason = self.tried(q, layer)
        if reason is None:
            return tensors
        others = [
            name
            for name, form in FORMATS.items()
            if form is not self.form
            and Layout(name, form).refuse(origin, Choices()) is None
            and Layout(name, form).tried(q, layer)[1] is None
        ]
        others += [] if layer.spec.input or layer.spec.transform or origin.attention else ["dense"]
        raise UnsupportedError(f"format {self.name!r} cannot hold {layer.name}: {reason}. {which_can(others)}")

    def tried(self, q: QTensor, layer: Layer) -> tuple[dict[str, Tensor], str | None]:
        """The tensors by leaf name, and why they do not stand for the same numbers, or None."""
        try:
            tensors = self.form.pack(q)
            back = self.form.unpack(tensors, layer.spec, layer.shape)
        except OmniqError as error:
            return {}, str(error)
        if same_numbers(q, back):
            return tensors, None
        if not q.same_order(back):
            return {}, "its groups are not of neighbouring inputs (act-order)"
        what = "scales" if torch.equal(q.zeros, back.zeros) else "zero points"
        return {}, f"its {what} would come out as other numbers"


def _stored(path: Path, tensors: Mapping[str, Tensor]) -> Reader:
    """The tensors, now in a file."""
    write_tensors(path, tensors)
    return Reader(path)


def settled(q: QTensor, dtype: torch.dtype) -> QTensor:
    """The same numbers with scales in `dtype`, the model's own, where that holds every one of them."""
    scales = q.scales.to(dtype)
    if not torch.equal(scales.double(), q.scales.double()):
        return q
    return replace(q, scales=scales)


for name, form in FORMATS.items():
    TARGETS.add(name)(Layout(name, form))
