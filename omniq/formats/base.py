"""Format: how a QTensor is laid out in a checkpoint, and what the checkpoint's config says about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from omniq.qtensor import QTensor
from omniq.registry import Registry
from omniq.spec import LinearSpec, TableSpec


@dataclass(frozen=True)
class StoredTable:
    """An embedding table or output head of few bits in a checkpoint.

    name: the module's, in the checkpoint. layout: the format's own word for how the integers lie.
    """

    name: str
    spec: LinearSpec
    layout: str


class TableFormat(Protocol):
    """How a format stores the embedding table and the output head in few bits. Implementations inherit nothing."""

    def loaded_by(self, scheme: LinearSpec, table: TableSpec, expand: bool) -> tuple[str, ...]:
        """The runtimes that load such tables beside linears of `scheme`; expand: as in Format.config."""

    def config(
        self, config: Mapping[str, Any], linears: Mapping[str, LinearSpec], table: TableSpec, names: tuple[str, ...]
    ) -> dict[str, Any]:
        """Format.config's entry with the tables added; names: every name of the embedding and of the head."""

    def parse(self, config: Mapping[str, Any], embedding: str, head: str | None) -> dict[str, StoredTable]:
        """The tables that an entry says are quantised, by name; head: None where it is the embedding."""

    def leaves(self, table: StoredTable) -> tuple[str, ...]:
        """The leaf names that pack() gives."""

    def repeated(self, table: StoredTable) -> tuple[str, ...]:
        """Leaves that loaders also look for under the name of a head that is the embedding."""

    def pack(self, q: QTensor, table: StoredTable) -> dict[str, Tensor]:
        """QTensor (V, D) -> tensors by leaf name."""

    def unpack(self, tensors: Mapping[str, Tensor], table: StoredTable, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack, bit for bit; checks every shape, dtype and range before use."""


class Format(Protocol):
    """One checkpoint layout. Implementations inherit nothing."""

    loaders: str
    """Which runtimes load it, for people."""

    tables: TableFormat | None
    """How it stores an embedding table and an output head of few bits; None where it cannot."""

    needs: tuple[str, ...]
    """The packages that transformers needs to load it."""

    dense_unsaid: bool
    """Whether a linear may be left in floating point without a word in the config, so that the tensors decide."""

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the scales of a model stored in `dtype` are rounded to while it is quantised."""

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        """Why a layer of shape (N, K) cannot be stored, or None."""

    def refuse_mixed(self, specs: Iterable[LinearSpec], expand: bool) -> str | None:
        """Why linears with all of these specs cannot stand in one checkpoint, or None; expand: as in config."""

    def loaded_by(self, spec: LinearSpec, experts: bool = False, own: bool = False) -> tuple[str, ...]:
        """The runtimes that load this spec from this format, one sentence each, printed before work starts.

        experts: linears are experts of a mixture. own: linears are of a class of the architecture's own.
        """

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor, with groups of neighbouring inputs -> tensors by leaf name ('weight_packed', ...)."""

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack, bit for bit; checks every shape, dtype and range before use."""

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names pack() gives for this spec."""

    def readable(self, spec: LinearSpec, has: Callable[[str], bool]) -> tuple[str, ...]:
        """The leaf names that unpack() wants of a stored layer, which another tool may have written otherwise.

        has: whether the layer has a leaf of this name.
        """

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry: linears by full module name; ignore: linears left in floating point.

        expand: loaders must turn packed weights into dense ones, because the model's own code reads them.
        """

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """A `quantization_config` and the names of the model's linears -> spec by name; None: another format's."""


FORMATS: Registry[Format] = Registry("format", "omniq.formats")


def loaders_of_all(loaded_by: Callable[[LinearSpec], tuple[str, ...]], specs: Iterable[LinearSpec]) -> tuple[str, ...]:
    """The runtimes that load a checkpoint with linears of all these specs, one sentence each; loaded_by: of one spec.

    Specs that only omniq computes decide alone. Of the others a runtime must load each, so where it has something
    against some of them, what it says of those counts.
    """
    distinct = list(dict.fromkeys(specs))
    special = [spec for spec in distinct if spec != spec.plain()]
    answers = [loaded_by(spec) for spec in special[-1:] or distinct]
    return tuple(
        next((sentence for sentence in said if ": yes" not in sentence), said[0]) for said in zip(*answers, strict=True)
    )
