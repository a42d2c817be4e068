"""Scales in float16: what GPTQ and AWQ loaders turn every scale into, whatever dtype it is stored in.

A scale that float16 does not hold would be rounded on the way into a loader, behind everybody's back. So it is refused
when it is packed. While a model is quantised for these formats its scales are float16 from the start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.errors import UnsupportedError

SCALE_DTYPES = (torch.float16, torch.bfloat16)


def loadable(scales: Tensor, name: str) -> Tensor:
    """Scales of any shape as format `name` stores them: the same numbers, in bfloat16 if they are, else in float16.

    UnsupportedError when a scale is no float16 number.
    """
    half = scales.to(torch.float16)
    wrong = scales[half.to(scales.dtype) != scales]
    if len(wrong):
        raise UnsupportedError(
            f"format {name!r} needs scales that float16 holds exactly, and {len(wrong)} of {scales.numel()} are not, "
            f"such as {float(wrong[0])!r}; use --format compressed-tensors, which keeps them as they are, or quantise "
            f"the original model with --format {name}"
        )
    return scales if scales.dtype in SCALE_DTYPES else half
