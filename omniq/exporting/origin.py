"""Origin: the checkpoint that is exported: its linears by name, spec and shape, and their integers one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.base import FORMATS, Format
from omniq.formats.reading import read_linear
from omniq.hf import OpenModel, open_model
from omniq.qtensor import QTensor
from omniq.runtime import attention_grid, format_of, stored_tables
from omniq.spec import HeadSpec, LinearSpec, TableSpec
from omniq.vocab.rounding import Tables
from omniq.vocab.stored import StoredTables


@dataclass(frozen=True)
class Layer:
    """A quantised linear: its name in the model, its name in the checkpoint, its spec and its shape (N, K)."""

    name: str
    stored: str
    spec: LinearSpec
    shape: tuple[int, int]


class Origin:
    """A quantised checkpoint, of which only headers and config.json have been read until weight() or tables() is asked.

    form, format: its layout and that layout's name. layers: its quantised linears in the model's order, model.linears
    alike; a linear that the config does not quantise is in model.skipped and an ordinary tensor.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        self.folder, self.trust_remote_code = folder, trust_remote_code
        opened = open_model(folder, trust_remote_code=trust_remote_code, quantized=True)
        self.form: Format
        self.form, specs = format_of(opened)
        self.format = next(name for name, form in FORMATS.items() if form is self.form)
        self.layers = tuple(_layers(opened, specs))
        chosen = tuple(layer.name for layer in self.layers)
        left = dict.fromkeys((name for name in opened.linears if name not in chosen), "left so by whoever quantised it")
        self.model: OpenModel = replace(opened, linears=chosen, skipped={**opened.skipped, **left})

    @cached_property
    def attention(self) -> HeadSpec | None:
        """The grid of q, k and v inside attention, which omniq alone computes, or None."""
        return attention_grid(self.model)

    @cached_property
    def stored_tables(self) -> StoredTables:
        """Where the embedding table and the output head lie, should they be in few bits."""
        return stored_tables(self.model)

    @property
    def table(self) -> TableSpec | None:
        """The grid of the embedding table and the output head, or None where they are ordinary tensors."""
        return self.stored_tables.spec()

    def weight(self, layer: Layer) -> QTensor:
        """The integers of one linear, read anew; ModelError or UnsupportedError names it where they make no sense."""
        try:
            return read_linear(self.form, self.model.reader, layer.stored, layer.spec, layer.shape)
        except (ModelError, UnsupportedError) as error:
            raise type(error)(f"{layer.name} of {self.folder}: {error}") from None

    def tables(self) -> Tables:
        """The embedding table and the output head of few bits, read anew."""
        return self.stored_tables.read(self.model.reader)

    def ordinary(self) -> tuple[str, ...]:
        """The tensors of the checkpoint that no quantised linear or table is made of: copied bit for bit."""
        packed = {layer.stored for layer in self.layers}
        tables = self._table_tensors()
        return tuple(
            name
            for name in self.model.reader.names()
            if name not in tables and (name.rpartition(".")[0] not in packed or name.endswith(".bias"))
        )

    def _table_tensors(self) -> set[str]:
        """The tensors that hold the tables, also those that a tied head repeats."""
        stored, tables = self.stored_tables, self.form.tables
        found = set()
        for place in stored.places.values():
            found |= {f"{place.name}.{leaf}" for leaf in tables.leaves(place)}
            found |= {f"{stored.head}.{leaf}" for leaf in tables.repeated(place)} if self.model.tied else set()
        return found


def _layers(model: OpenModel, specs: Mapping[str, LinearSpec]) -> Iterator[Layer]:
    """The quantised linears. specs: by their names in the checkpoint."""
    for name in model.linears:
        stored = model.stored_name(f"{name}.weight").removesuffix(".weight")
        if stored in specs:
            yield Layer(name, stored, specs[stored], tuple(model.skeleton.get_submodule(name).weight.shape))
