"""Who takes part: omniq's kernels, and torch's own ways to multiply by the same weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from omniq.errors import OmniqError
from omniq.kernels.dispatch import KERNELS
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

INT4_GROUPS = (32, 64, 128, 256)
INNER_TILES = 8


@dataclass(frozen=True, eq=False)
class Entrant:
    """name: of a kernel, or 'torch ...'. weights: the same weight several times, to be gone through in turn.

    nbytes: of one of them. dtype: of its input. integer: it multiplies integers, so that int8 products are its limit.
    """

    name: str
    weights: tuple[Any, ...]
    nbytes: int
    dtype: torch.dtype
    integer: bool
    multiply: Callable[[Tensor, Any], Tensor]

    def refusal(self, x: Tensor) -> str | None:
        """Why it does not multiply x (M, K), found by doing so once, or None."""
        try:
            self.multiply(x, self.weights[0])
        except OmniqError as error:
            return str(error)
        return None

    def calls(self, x: Tensor, count: int) -> list[Callable[[], Tensor]]:
        """x (M, K) -> calls that multiply it by each of the first `count` weights."""
        return [lambda w=weight: self.multiply(x, w) for weight in self.weights[:count]]


@dataclass(frozen=True)
class Refused:
    """Who does not take part, and why."""

    name: str
    reason: str


def random_qtensor(spec: QuantSpec, shape: tuple[int, int], dtype: torch.dtype) -> QTensor:
    """Codes over the whole range (N, K), scales (N, G) such that products keep the size of their input."""
    draw = torch.Generator().manual_seed(0)
    grid = (shape[0], spec.groups(shape[1]))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    scales = (0.5 + torch.rand(grid, generator=draw)) / (spec.mid * shape[1] ** 0.5)
    zeros = torch.full(grid, spec.mid, dtype=torch.uint8)
    if not spec.symmetric:
        zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    return QTensor(codes, scales.to(dtype), zeros, spec)


def copies(weight: dict[str, Tensor], device: torch.device, footprint: int) -> tuple[dict[str, Tensor], ...]:
    """As many copies on `device` as fill `footprint` bytes, at least one."""
    count = max(1, -(-footprint // max(1, size(weight))))
    placed = {name: tensor.to(device) for name, tensor in weight.items()}
    return (placed, *({name: tensor.clone() for name, tensor in placed.items()} for _ in range(count - 1)))


def size(weight: dict[str, Tensor]) -> int:
    """Bytes of all its tensors."""
    return sum(tensor.nbytes for tensor in weight.values())


def kernel_entrant(
    name: str, q: QTensor, spec: LinearSpec, dtype: torch.dtype, device: torch.device, footprint: int
) -> Entrant | Refused:
    """A kernel of the registry on the weight q (N, K), or the sentence with which it refuses."""
    kernel = KERNELS[name]
    if reason := kernel.refuse(spec, q.shape, device):
        return Refused(name, reason)
    try:
        packed = kernel.prepack(q, spec)
    except OmniqError as error:
        return Refused(name, str(error))
    weights = copies(packed, device, footprint)
    integer = spec.input is not None or kernel.approximate
    return Entrant(name, weights, size(packed), dtype, integer, lambda x, w: kernel.apply(x, w, spec))


def dense_entrant(name: str, q: QTensor, dtype: torch.dtype, device: torch.device, footprint: int) -> Entrant:
    """torch's linear with the weight (N, K) unquantised in `dtype`."""
    weight = {"weight": q.dequantize(dtype)}
    return Entrant(
        name, copies(weight, device, footprint), size(weight), dtype, False, lambda x, w: linear(x, w["weight"])
    )


def int4_entrant(name: str, q: QTensor, spec: LinearSpec, device: torch.device, footprint: int) -> Entrant | Refused:
    """torch's own 4-bit operator on the codes of q (N, K), with bfloat16 input, or why it does not take them."""
    if reason := int4_refusal(spec, q.shape, device):
        return Refused(name, reason)
    group = q.spec.width(q.shape[1])
    # w = (code - 8) * scale + zero, in bfloat16.
    zeros = (8 - q.zeros.float()) * q.scales.float()
    scales = torch.stack([q.scales.float(), zeros], dim=-1).transpose(0, 1).contiguous().bfloat16()
    if device.type == "cpu":
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.codes.int(), INNER_TILES)
        operator = torch.ops.aten._weight_int4pack_mm_for_cpu
    else:
        pairs = q.codes[:, ::2] << 4 | q.codes[:, 1::2]
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs.to(device), INNER_TILES)
        operator = torch.ops.aten._weight_int4pack_mm
    weight = {"packed": packed, "scales": scales}
    return Entrant(
        name,
        copies(weight, device, footprint),
        size(weight),
        torch.bfloat16,
        False,
        lambda x, w: operator(x, w["packed"], group, w["scales"]),
    )


def int4_refusal(spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
    """Why torch's 4-bit operator does not take a layer of shape (N, K), or None."""
    n, k = shape
    if spec.weight.bits != 4 or spec.input is not None:
        return "it takes 4-bit weights and floating-point activations only"
    if spec.weight.width(k) not in INT4_GROUPS:
        return f"it takes groups of {', '.join(map(str, INT4_GROUPS))} only"
    rows, columns = (16, 2) if device.type == "cpu" else (8, 16 * INNER_TILES)
    if n % rows or k % columns:
        return f"it needs out_features divisible by {rows} and in_features by {columns}, got {n} and {k}"
    return None


def entrants(
    names: Sequence[str],
    spec: LinearSpec,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    footprint: int,
) -> list[Entrant | Refused]:
    """The kernels named and torch's own ways, for a random weight (N, K); all refused where spec and shape clash.

    footprint: bytes that the copies of each one's weight take together, at least.
    """
    try:
        q = random_qtensor(spec.weight, shape, dtype)
    except OmniqError as error:
        return [Refused(name, str(error)) for name in names]
    return [
        *(kernel_entrant(name, q, spec, dtype, device, footprint) for name in names),
        dense_entrant("torch float32", q, torch.float32, device, footprint),
        dense_entrant("torch bfloat16", q, torch.bfloat16, device, footprint),
        int4_entrant("torch int4", q, spec, device, footprint),
    ]
