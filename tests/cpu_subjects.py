"""Random quantised weights for the CPU library, shared by its tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omniq.kernels.cpu import multiply
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.native import missing
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ISAS = ("portable", "avx2", "avx512vnni")

needs_library = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def random_weight(
    spec: QuantSpec, shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0
) -> QTensor:
    """Codes over the whole range; scales of about 1/sqrt(K), of both signs where symmetric."""
    draw = torch.Generator().manual_seed(seed)
    grid = (shape[0], spec.groups(shape[1]))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    scales = (0.5 + torch.rand(grid, generator=draw)) / (spec.mid * shape[1] ** 0.5)
    if spec.symmetric:
        scales *= torch.randint(0, 2, grid, generator=draw) * 2 - 1
        zeros.fill_(spec.mid)
    return QTensor(codes, scales.to(dtype), zeros, spec)


def random_rows(m: int, k: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Standard normal activations (M, K)."""
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def product(x: Tensor, packed: dict[str, Tensor], scheme: LinearSpec, kernel: str = "cpu") -> Tensor:
    """x (M, K) -> (M, N), into an output that held NaN before."""
    y = torch.full((x.shape[0], int(packed["sizes"][0])), float("nan"), dtype=x.dtype)
    multiply(x, packed, scheme, KERNELS[kernel].digits[x.dtype], y)
    return y


def bits_of(y: Tensor) -> Tensor:
    """The stored bits of y, so that equality also tells zeros and NaNs apart."""
    return y.view(torch.int32 if y.dtype == torch.float32 else torch.int16)
