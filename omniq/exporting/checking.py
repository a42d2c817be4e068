"""Whether what was written stands for the same numbers as the checkpoint that it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omniq.checkpoint import Reader
from omniq.errors import ModelError, UnsupportedError, VerificationError
from omniq.exporting.origin import Origin
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


def same_numbers(a: QTensor, b: QTensor) -> bool:
    """Whether codes, zero points and values of scales are the same; scales may have another dtype.

    A layout without a word for symmetry stores the constant zero point, so symmetry may differ too.
    """
    return (
        same_grid(LinearSpec(a.spec), LinearSpec(b.spec))
        and a.same_order(b)
        and torch.equal(a.codes, b.codes)
        and torch.equal(a.zeros, b.zeros)
        and torch.equal(a.scales.double(), b.scales.double())
    )


def same_grid(a: LinearSpec, b: LinearSpec) -> bool:
    """Whether two linears round alike, symmetry of the weight aside."""
    return replace(a, weight=replace(a.weight, symmetric=True)) == replace(b, weight=replace(b.weight, symmetric=True))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    raw = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def check_ordinary(origin: Origin, reader: Reader) -> None:
    """Raises VerificationError unless every tensor that is not quantised was copied bit for bit."""
    for name in origin.ordinary():
        if not same_bits(origin.model.reader.read(name), reader.read(name)):
            raise differs(name)


def check_quantized(origin: Origin, result: Path) -> None:
    """Raises VerificationError unless `result`, opened by its own config, holds the integers of `origin`."""
    with _read_back("the export"):
        written = Origin(result, trust_remote_code=origin.trust_remote_code)
    found = {layer.name: layer for layer in written.layers}
    for layer in origin.layers:
        other = found.pop(layer.name, None)
        if other is None or not same_grid(layer.spec, other.spec):
            raise differs(layer.name)
        with _read_back(layer.name):
            q = written.weight(other)
        if not same_numbers(origin.weight(layer), q):
            raise differs(layer.name)
    if found:
        raise differs(next(iter(found)))
    check_tables(origin, written)


def check_tables(origin: Origin, written: Origin) -> None:
    """Raises VerificationError unless embedding table and output head are the same integers, or neither is integers."""
    ours = origin.tables()
    with _read_back("the embedding table"):
        theirs = written.tables()
    for name, a, b in (("embedding", ours.embedding, theirs.embedding), ("head", ours.head, theirs.head)):
        if (a is None) != (b is None) or (a is not None and not same_numbers(a, b)):
            raise differs(f"the {name} table")


@contextmanager
def _read_back(name: str) -> Iterator[None]:
    """Turns what makes `name` unreadable into the error that the export is wrong."""
    try:
        yield
    except (ModelError, UnsupportedError) as error:
        raise VerificationError(f"{name} does not read back ({error}); nothing was left at the output") from None


def differs(name: str) -> VerificationError:
    """The error about what reads back otherwise."""
    return VerificationError(
        f"{name} reads back from the export as other numbers than the checkpoint has; nothing was left at the output"
    )
