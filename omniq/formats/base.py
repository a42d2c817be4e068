"""Format: how a QTensor is laid out in a checkpoint, and what the checkpoint's config says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from omniq.qtensor import QTensor
from omniq.registry import Registry
from omniq.spec import LinearSpec


class Format(Protocol):
    """One checkpoint layout. Implementations inherit nothing."""

    loaders: str
    """Which runtimes load it, for people."""

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        """Why a layer of shape (N, K) cannot be stored, or None."""

    def loaded_by(self, spec: LinearSpec) -> tuple[str, ...]:
        """The runtimes that load this spec from this format, one sentence each, printed before work starts."""

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        """QTensor -> tensors by leaf name ('weight_packed', ...)."""

    def unpack(self, tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack, bit for bit; checks every shape, dtype and range before use."""

    def leaves(self, spec: LinearSpec) -> tuple[str, ...]:
        """The leaf names pack() gives for this spec."""

    def config(
        self, linears: Mapping[str, LinearSpec], ignore: tuple[str, ...], expand: bool = False
    ) -> dict[str, Any]:
        """The `quantization_config` entry: linears by full module name; ignore: linears left in floating point.

        expand: loaders must turn packed weights into dense ones, because the model's own code reads them.
        """

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, LinearSpec] | None:
        """A `quantization_config` and the names of the model's linears -> spec by name; None: another format's."""


FORMATS: Registry[Format] = Registry("format", "omniq.formats")
