"""compressed-tensors `int-quantized`: one int8 a code, as embedding tables have it, and linears that others made.

weight (N, K) int8 = code - 2**(bits-1); weight_scale (N, G); asymmetric only, weight_zero_point (N, G) int8 likewise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omniq.errors import ModelError, UsageError
from omniq.formats.checks import check_leaves, check_tensor
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def plain_leaves(spec: QuantSpec) -> tuple[str, ...]:
    """The leaf names of a weight on this grid."""
    return ("weight", "weight_scale") if spec.symmetric else ("weight", "weight_scale", "weight_zero_point")


def pack_plain(q: QTensor) -> dict[str, Tensor]:
    """QTensor -> tensors by leaf name; scales keep their dtype."""
    tensors = {"weight": _signed(q.codes, q.spec), "weight_scale": q.scales.contiguous()}
    return tensors if q.spec.symmetric else tensors | {"weight_zero_point": _signed(q.zeros, q.spec)}


def unpack_plain(tensors: Mapping[str, Tensor], spec: LinearSpec, shape: tuple[int, int], place: str = "") -> QTensor:
    """The inverse of pack_plain; ModelError when a tensor does not fit a weight of `shape` (N, K).

    place: the module's name and a dot, for the error.
    """
    weight, (n, k) = spec.weight, shape
    try:
        grid = (n, weight.groups(k))
    except UsageError as error:
        raise ModelError(f"{place}{error}; config.json is of another model") from None
    check_leaves(tensors, plain_leaves(weight), spec)
    check_tensor(tensors, "weight", shape, (torch.int8,), weight, place)
    check_tensor(tensors, "weight_scale", grid, SCALE_DTYPES, weight, place)
    zeros = torch.full(grid, weight.mid, dtype=torch.uint8)
    if not weight.symmetric:
        check_tensor(tensors, "weight_zero_point", grid, (torch.int8,), weight, place)
        zeros = _unsigned(tensors["weight_zero_point"], weight, f"{place}weight_zero_point")
    return QTensor(_unsigned(tensors["weight"], weight, f"{place}weight"), tensors["weight_scale"], zeros, weight)


def _signed(values: Tensor, spec: QuantSpec) -> Tensor:
    """uint8 values -> int8. Without a sign, moving by half the range wraps round to what int8 means."""
    return (values - spec.mid).view(torch.int8)


def _unsigned(values: Tensor, spec: QuantSpec, name: str) -> Tensor:
    """int8 values -> uint8; ModelError when one is not on the grid."""
    if values.numel() and not -spec.mid <= int(values.min()) <= int(values.max()) < spec.mid:
        raise ModelError(f"{name} has codes beyond {spec.bits} bits; the checkpoint is damaged")
    return values.view(torch.uint8) + spec.mid
