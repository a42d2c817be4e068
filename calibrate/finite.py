"""Values that are numbers: tensors and hidden states are looked at before anything is made of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omniq.calibrate.hidden import Hidden
from omniq.errors import ModelError

LOOKED_AT = 1 << 22
"""Values that are checked together."""
SQUARABLE = 1e15
"""Hidden states may be this large: the squares of a hundred million such values have a sum that float32 holds."""


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


def running(stream: Hidden, what: str) -> float:
    """The largest magnitude among hidden states (B, T, D); ModelError when they are not finite, or far too large."""
    largest = torch.stack([torch.stack(part.aminmax()).abs().amax() for part in stream]).amax().item()
    if not math.isfinite(largest):
        raise ModelError(
            f"{what} computes NaN or infinite hidden states from the calibration text; "
            "check that the model itself writes sense, or use more bits"
        )
    if largest > SQUARABLE:
        raise ModelError(
            f"{what} computes hidden states as large as {largest:.1e} from the calibration text, and float32 cannot "
            "hold sums of their squares; check that the model itself writes sense"
        )
    return largest
