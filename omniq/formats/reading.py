"""What a checkpoint holds of one quantised linear, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from omniq.formats.base import Format
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


class Tensors(Protocol):
    """The tensors of a checkpoint."""

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""

    def read(self, name: str) -> Tensor:
        """A tensor by its name."""


def read_linear(form: Format, reader: Tensors, stored: str, spec: LinearSpec, shape: tuple[int, int]) -> QTensor:
    """The weight (N, K) of the linear called `stored` in the checkpoint; ModelError when it does not fit."""
    leaves = form.readable(spec, lambda leaf: f"{stored}.{leaf}" in reader)
    return form.unpack({leaf: reader.read(f"{stored}.{leaf}") for leaf in leaves}, spec, shape)


def really_quantized(form: Format, reader: Tensors, specs: Mapping[str, LinearSpec]) -> dict[str, LinearSpec]:
    """Those of `specs`, by name, that are not stored in floating point where a format lets the tensors decide."""
    if not form.dense_unsaid:
        return dict(specs)
    return {
        name: spec
        for name, spec in specs.items()
        if f"{name}.weight" not in reader or any(f"{name}.{leaf}" in reader for leaf in form.leaves(spec))
    }
