"""Integer grids: from ranges to scales and zero points, from weights to codes, and the fake quantisation of both.

The one place where a formula for rounding lives; calibration, kernels and evaluation call it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniq.errors import ModelError
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, QuantSpec


def grouped(weight: Tensor, spec: QuantSpec) -> Tensor:
    """weight (N, K) -> (N, G, K/G); a group never crosses a row."""
    n, k = weight.shape
    return weight.reshape(n, spec.groups(k), spec.width(k))


def extrema(weight: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> lo (N, G) <= 0 and hi (N, G) >= 0: each group's range, widened to hold zero.

    Holding zero keeps every zero point inside [0, 2**bits - 1], so that it can be packed.
    """
    groups = grouped(weight, spec)
    return groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)


class _Round(torch.autograd.Function):
    """Round to nearest (half to even), or to a storage dtype; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        return x.round() if dtype is None else x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def round_through(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x rounded to integers, or to the values `dtype` can hold; straight-through gradient."""
    return _Round.apply(x, dtype)


def affine_grid(lo: Tensor, hi: Tensor, spec: QuantSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ranges lo <= 0 <= hi (N, G) -> scales, zeros (N, G) float32, the scales rounded to what `dtype` holds.

    Symmetric: the end of larger magnitude is code 0 exactly (signed -2**(bits-1)), so a scale is negative where that
    end is positive; the other end may clip by one step. Asymmetric: zeros = round(-lo / scale), no gradient through it.
    """
    if spec.symmetric:
        scales = torch.where(-lo >= hi, -lo, -hi) / spec.mid
    else:
        scales = (hi - lo) / spec.qmax
    # Below the smallest normal number float16 still has some: in 8 bits, ordinary weights have such scales.
    tiny = max(torch.finfo(dtype).tiny * torch.finfo(dtype).eps, torch.finfo(torch.float32).tiny)
    scales = torch.where(scales.abs() < tiny, torch.ones_like(scales), scales)
    scales = round_through(scales, dtype)
    if spec.symmetric:
        return scales, torch.full_like(scales, spec.mid)
    return scales, (-lo / scales).round().clamp(0, spec.qmax).detach()


def minmax_grid(weight: Tensor, spec: QuantSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> scales, zeros (N, G): round-to-nearest's grid."""
    return affine_grid(*extrema(weight, spec), spec, dtype)


def check_finite(weight: Tensor, scales: Tensor) -> None:
    """Raises ModelError where a weight (N, K), or one of its stored scales (N, G), is no number."""
    if not torch.isfinite(weight).all():
        raise ModelError(
            f"a weight of shape {tuple(weight.shape)} has NaN or infinite values; it cannot be quantised, so check the "
            "model"
        )
    if not torch.isfinite(scales).all():
        raise ModelError(
            f"a weight of shape {tuple(weight.shape)} is as large as {float(weight.abs().max()):.1e} and needs scales "
            f"beyond {scales.dtype}; use --format compressed-tensors, on a copy of the model stored in bfloat16"
        )


def encode(weight: Tensor, scales: Tensor, zeros: Tensor, spec: QuantSpec, dtype: torch.dtype) -> QTensor:
    """weight (N, K) on a given grid (N, G) -> QTensor with scales stored as `dtype`."""
    stored = scales.to(dtype)
    check_finite(weight, stored)
    groups = grouped(weight.float(), spec)
    codes = (groups / stored.float().unsqueeze(-1)).round() + zeros.unsqueeze(-1)
    codes = codes.clamp(0, spec.qmax).to(torch.uint8).view(weight.shape)
    return QTensor(codes, stored, zeros.to(torch.uint8), spec)


class _FakeQuantize(torch.autograd.Function):
    """(clamp(round(w / s) + z, 0, qmax) - z) * s with the gradients of learned step size quantisation.

    Straight through in w inside the range and zero outside; the exact derivative of the rounded expression in s
    (Esser et al., arXiv:1902.08153) and, outside the range, in z.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, scales: Tensor, zeros: Tensor, qmax: int) -> Tensor:
        steps = weight / scales
        codes = steps.round().clamp_(-zeros, qmax - zeros)
        inside = (codes - steps).abs_() <= 0.5
        ctx.save_for_backward(torch.where(inside, codes - steps, codes), inside, scales)
        return codes * scales

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        slope, inside, scales = ctx.saved_tensors
        needs_weight, needs_scales, needs_zeros, _ = ctx.needs_input_grad
        grad_weight = grad * inside if needs_weight else None
        grad_scales = (grad * slope).sum(-1, keepdim=True) if needs_scales else None
        grad_zeros = -(grad * ~inside).sum(-1, keepdim=True) * scales if needs_zeros else None
        return grad_weight, grad_scales, grad_zeros, None


def fake_quantize(weight: Tensor, scales: Tensor, zeros: Tensor, spec: QuantSpec) -> Tensor:
    """weight (N, K) -> the value its code decodes to (N, K) float32; differentiable in weight, scales, zeros (N, G)."""
    groups = grouped(weight, spec)
    return _FakeQuantize.apply(groups, scales.unsqueeze(-1), zeros.unsqueeze(-1), spec.qmax).view(weight.shape)


def token_grid(x: Tensor, spec: ActSpec) -> tuple[Tensor, Tensor]:
    """x (..., K) -> scales, zeros (..., 1): one grid per token, from its own range (widened to hold zero, clipped).

    Codes are signed, in [-2**(bits-1), 2**(bits-1) - 1]; a symmetric grid has zeros = 0. Every step is computed in
    x.dtype, in the order in which compressed-tensors computes it, so that both give the same bits.
    """
    low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
    lo, hi = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    if spec.clip != 1:
        lo, hi = lo * spec.clip, hi * spec.clip
    scales = torch.maximum(-lo, hi) / ((high - low) / 2) if spec.symmetric else (hi - lo) / (high - low)
    scales = torch.where(scales == 0, torch.finfo(x.dtype).eps, scales)
    if spec.symmetric:
        return scales, torch.zeros_like(scales)
    return scales, (low - lo / scales).clamp(low, high).round().detach()


def quantize_tokens(x: Tensor, spec: ActSpec) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., K) -> codes (..., K) int8, scales (..., 1), zeros (..., 1) with x ~ (codes - zeros) * scales."""
    low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
    scales, zeros = token_grid(x, spec)
    return (x / scales + zeros).round().clamp(low, high).to(torch.int8), scales, zeros


def fake_quantize_tokens(x: Tensor, spec: ActSpec | None) -> Tensor:
    """x (..., K) through its per-token grid and back, in x.dtype; x itself when spec is None.

    The gradient passes straight through inside the range and is zero outside it.
    """
    if spec is None:
        return x
    low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
    scales, zeros = token_grid(x, spec)
    codes = round_through(x / scales + zeros).clamp(low, high)
    return (codes - zeros) * scales
