"""Reading back: every number of a written GGUF file against the checkpoint, through the gguf package's own decoding."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from omniq.errors import VerificationError
from omniq.gguf.tensors import Blocks, Checkpoint, Stored, stored
from omniq.qtensor import QTensor

VALUES = 1 << 22
"""Weights compared at a time."""


def check_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """Raises VerificationError, with the tensor's name, unless the file holds the checkpoint's numbers and no more."""
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    wanted = stored(checkpoint)
    if set(found) != {tensor.name for tensor in wanted}:
        raise VerificationError(f"{path} reads back with other tensors than were written; do not use this file")
    for tensor in wanted:
        if not _same(tensor, found[tensor.name]):
            raise VerificationError(
                f"{tensor.name} reads back from {path} as other numbers than the checkpoint's; do not use this file"
            )


def _same(tensor: Stored, found: gguf.ReaderTensor) -> bool:
    """Whether the file's tensor has the shape and every value of the checkpoint's."""
    if tuple(reversed(found.shape.tolist())) != tensor.shape or found.tensor_type.name != tensor.kind:
        return False
    if not isinstance(tensor, Blocks):
        return torch.equal(_values(found, found.data), tensor.read().float())
    places = found.data if len(tensor.shape) == 3 else found.data[None]
    return all(_equal(read(), found, data) for read, data in zip(tensor.reads, places, strict=True))


def _equal(q: QTensor, found: gguf.ReaderTensor, data: np.ndarray) -> bool:
    """Whether data (N, bytes of a row) of the file's tensor are the rows of q (N, K)."""
    step = max(1, VALUES // q.shape[1])
    parts = (slice(first, first + step) for first in range(0, q.shape[0], step))
    return all(torch.equal(_values(found, data[part]), q.rows(part).dequantize()) for part in parts)


def _values(found: gguf.ReaderTensor, data: np.ndarray) -> Tensor:
    """The numbers of some of the tensor's rows, float32, as the gguf package decodes them."""
    return torch.from_numpy(gguf.dequantize(data, found.tensor_type).copy())
