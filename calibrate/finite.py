"""Values that are numbers: tensors and hidden states are looked at before anything is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.errors import ModelError

LOOKED_AT = 1 << 22
"""Values that are checked together."""


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite; looked at in parts, since a mask of all of them would be large itself."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(LOOKED_AT))


def checked(tensor: Tensor, name: str) -> Tensor:
    """The tensor, or ModelError when it has NaN or infinite values."""
    if not finite(tensor):
        raise ModelError(
            f"{name} has NaN or infinite values; the checkpoint is damaged or the training that made it diverged"
        )
    return tensor


def running(stream: Tensor, what: str) -> Tensor:
    """The hidden states (B, T, D), or ModelError when they have NaN or infinite values."""
    if not finite(stream):
        raise ModelError(
            f"{what} computes NaN or infinite hidden states from the calibration text; "
            "check that the model itself writes sense, or use more bits"
        )
    return stream
