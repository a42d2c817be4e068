"""A few rows times an unquantised weight on the CPU: torch's own product of one row stays below memory speed."""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.kernels.native import cpu_library
from omniq.kernels.shared_library import TYPES

MOST_ROWS = 8
"""Up to here reading the weight takes longer than multiplying by it."""


def few_rows(x: Tensor, weight: Tensor) -> Tensor | None:
    """x (..., K) times weight (N, K) -> (..., N), in float32; None where torch is the better or the only choice."""
    rows = x.numel() // max(1, x.shape[-1])
    library, _ = cpu_library()
    if (
        library is None
        or not 0 < rows <= MOST_ROWS
        or torch.compiler.is_compiling()
        or type(x) is not Tensor
        or not x.device.type == weight.device.type == "cpu"
        or x.dtype != weight.dtype
        or x.dtype not in TYPES
        or x.shape[-1] != weight.shape[1]
        or not weight.is_contiguous()
        or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    ):
        return None
    flat = x.reshape(rows, -1).contiguous()
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    status = library.omniq_cpu_dense(
        flat.data_ptr(), TYPES[x.dtype], rows, flat.shape[1], y.data_ptr(), weight.data_ptr(), *weight.shape,
        torch.get_num_threads(),
    )  # fmt: skip
    if status:
        raise MemoryError("the CPU library found no memory for the output head")
    return y
