"""The quantised tables of a checkpoint: made from a model, written under the names loaders look for, and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omniq.checkpoint import Reader
from omniq.digests import content_digest, tensor_digest
from omniq.errors import ModelError
from omniq.formats.base import Format, StoredTable
from omniq.hf import OpenModel
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, TableSpec
from omniq.vocab.rounding import Tables, dense_table, quantized_table


def table_modules(skeleton: nn.Module) -> tuple[str, str | None]:
    """The full names of the embedding and, where the model has one, of the output head."""
    names = {module: name for name, module in skeleton.named_modules()}
    head = skeleton.get_output_embeddings()
    return names[skeleton.get_input_embeddings()], None if head is None else names[head]


def quantization_entry(
    model: OpenModel, form: Format, specs: Mapping[str, LinearSpec], table: TableSpec | None
) -> dict[str, Any]:
    """The entry `quantization_config` for linears with these specs, by the model's names, and for its tables.

    A table is entered by the names of the model and of its checkpoint, which may differ; so are linears of several
    schemes, which loaders tell apart by the model's names.
    """
    linears = {_stored(model, name): spec for name, spec in specs.items()}
    if len(set(specs.values())) > 1 and all(spec == spec.plain() for spec in specs.values()):
        linears |= specs
    ignored = tuple(_stored(model, name) for name in (*model.skipped, *model.dense_linears()))
    config = form.config(linears, ignored, model.has_own_linears())
    if table is None:
        return config
    own = [name for name in table_modules(model.skeleton) if name is not None]
    return form.tables.config(config, linears, table, (*own, *(_stored(model, name) for name in own)))


def _stored(model: OpenModel, module: str) -> str:
    """A module's name in the checkpoint."""
    return model.stored_name(f"{module}.weight").removesuffix(".weight")


class StoredTables:
    """Which tables of a model a `quantization_config` says are quantised, and the tensors that hold them.

    places: StoredTable by module name; a head that is the embedding has none of its own.
    """

    def __init__(self, model: OpenModel, form: Format, config: Mapping[str, Any]) -> None:
        """model: original or quantised; form: the format of the config."""
        self.model, self.form = model, form
        self.embedding, self.head = table_modules(model.skeleton)
        own = None if model.tied or self.head is None else self.head
        names = {_stored(model, module): module for module in (self.embedding, own) if module is not None}
        spelled = [*names, None][:2]
        found = {} if form.tables is None else form.tables.parse(config, spelled[0], spelled[1])
        self.places: dict[str, StoredTable] = {names[name]: place for name, place in found.items()}

    def spec(self) -> TableSpec | None:
        """The grid of what is quantised, None for nothing; of the embedding, should the head have another."""
        first = next(iter(self.places.values()), None)
        return first and TableSpec(first.spec.weight, self.model.tied)

    def shape(self, module: str) -> tuple[int, int]:
        """(V, D) of the embedding or the head."""
        return tuple(self.model.skeleton.get_submodule(module).weight.shape)

    def parameters(self) -> frozenset[str]:
        """The parameters that tables stand in for, by the names of the model."""
        tied = (self.head,) if self.model.tied and self.places else ()
        return frozenset(f"{module}.weight" for module in (*self.places, *tied))

    def replaced(self) -> set[str]:
        """The tensors of the original checkpoint that tables take the place of."""
        return {self.model.stored_name(name) for name in self.parameters()}

    def rounded(self, read: Callable[[str], Tensor]) -> Tables:
        """The tables of the original, quantised; read: parameter name -> tensor."""
        made = {module: quantized_table(read(f"{module}.weight"), place.spec) for module, place in self.places.items()}
        return self._tables(made)

    def _tables(self, made: Mapping[str, QTensor]) -> Tables:
        table = made.get(self.embedding)
        return Tables(table, table if self.model.tied else made.get(self.head))

    def tensors(self, tables: Tables) -> dict[str, Tensor]:
        """What a checkpoint stores for the tables, by full name."""
        found = {}
        for module, place in self.places.items():
            q = tables.embedding if module == self.embedding else tables.head
            leaves = self.form.tables.pack(q, place)
            found |= {f"{place.name}.{leaf}": tensor for leaf, tensor in leaves.items()}
            for leaf in self.form.tables.repeated(place) if self.model.tied else ():
                found[f"{self.head}.{leaf}"] = leaves[leaf].clone()
        return found

    def read(self, reader: Reader) -> Tables:
        """The tables in a checkpoint; ModelError when a tensor does not fit."""
        made = {}
        for module, place in self.places.items():
            leaves = {leaf: reader.read(f"{place.name}.{leaf}") for leaf in self.form.tables.leaves(place)}
            made[module] = self.form.tables.unpack(leaves, place, self.shape(module))
            self._check_repeated(reader, place, leaves)
        return self._tables(made)

    def _check_repeated(self, reader: Reader, place: StoredTable, leaves: Mapping[str, Tensor]) -> None:
        """Raises ModelError where a head that is the embedding would be something else to another loader."""
        for leaf in self.form.tables.repeated(place) if self.model.tied else ():
            name = f"{self.head}.{leaf}"
            if name in reader and not torch.equal(reader.read(name), leaves[leaf]):
                raise ModelError(
                    f"{name} is not what {place.name}.{leaf} is, although they are one table; the checkpoint is damaged"
                )

    def dense(self, tables: Tables) -> dict[str, Tensor]:
        """Values (V, D) float32 of every quantised table, by the model's name of its parameter."""
        both = {self.embedding: tables.embedding, self.head: None if self.model.tied else tables.head}
        return {f"{module}.weight": dense_table(q, torch.float32) for module, q in both.items() if q is not None}

    def reading(self, tables: Tables, read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """`read`, a parameter's name -> its tensor, with the values of the quantised embedding for the embedding."""
        name = f"{self.embedding}.weight"
        if tables.embedding is None:
            return read
        return lambda asked: dense_table(tables.embedding, self.model.dtype) if asked == name else read(asked)


def table_digests(tables: Tables) -> dict[str, str]:
    """A hash of the codes and scales of each table: 'embedding' and, where it is another, 'head'."""
    pairs = {"embedding": tables.embedding, "head": None if tables.head is tables.embedding else tables.head}
    return {
        name: content_digest(
            {"codes": tensor_digest(q.codes), "scales": tensor_digest(q.scales)}, {"spec": str(q.spec)}
        )
        for name, q in pairs.items()
        if q is not None
    }
