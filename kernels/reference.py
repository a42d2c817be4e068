"""The definition of a quantised linear layer: plain torch, slow on purpose. Every other kernel is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.grid import quantize_tokens
from omniq.kernels.dispatch import KERNELS
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, LinearSpec


def linear(x: Tensor, q: QTensor, spec: LinearSpec) -> Tensor:
    """x (..., K), q (N, K) -> (..., N) in x.dtype: x through its per-token grid, then x @ w.T accumulated in float32.

    The codes and scales of x are computed in x.dtype, as plain transformers does; what they decode to is not rounded
    again, which only a floating-point multiplication would need. A float64 x is computed in float64 throughout.
    """
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (decoded(x, spec.input, work) @ q.dequantize(work).T).to(x.dtype)


def decoded(x: Tensor, spec: ActSpec | None, work: torch.dtype) -> Tensor:
    """x (..., K) -> the values its codes stand for, in the dtype `work`; x itself when spec is None."""
    if spec is None:
        return x.to(work)
    codes, scales, zeros = quantize_tokens(x, spec)
    return (codes.to(work) - zeros.to(work)) * scales.to(work)


class Reference:
    """linear() as a kernel: runs everything everywhere, and expands the whole weight at every call."""

    priority = 0
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Never refuses."""
        return None

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """The QTensor as it is: codes (N, K) uint8, scales (N, G), zeros (N, G) uint8."""
        return {"codes": q.codes, "scales": q.scales, "zeros": q.zeros}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        return linear(x, QTensor(packed["codes"], packed["scales"], packed["zeros"], spec.weight), spec)


KERNELS.add("reference")(Reference())
