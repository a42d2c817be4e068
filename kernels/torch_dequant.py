"""Plain torch: weights stay packed in memory and are expanded a few rows at a time, into the multiplication.

Layout. Signed codes (code - 2**(bits-1)) sit in fields of 2 bits (2-bit weights), 4 bits (3 and 4) or 8 bits (5 to 8).
With F fields per byte, byte (n, c) of `fields` (N, C) int8, C = ceil(K / F), holds in field f the code of column
f * C + c: every field is a plane of neighbouring columns, which unpacks with two shifts and no shuffle.
`scales` (N, G) as stored; `zeros` (N, G) int8, signed too, asymmetric only.

Cost. Every call expands the whole weight once, about 10 operations a weight whatever the number of tokens. Against an
unquantised (4096, 4096) layer on one core: one token takes 1.7 times as long in float32 and 4 times in bfloat16, 256
tokens as long in float32 and 1.3 times in bfloat16. What it saves is memory. It runs wherever torch runs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from omniq.grid import fake_quantize_tokens
from omniq.kernels.dispatch import KERNELS
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

BYTE_BITS = 8
CPU_BLOCK = 1 << 20
"""Weights expanded at a time on the CPU, so that they are still in the cache when they are multiplied: one token in
(4096, 4096) float32 on one core takes 5 ms, against 39 ms in one piece and 14 ms in pieces of 2**16."""


def field_bits(bits: int) -> int:
    """The field that a code of `bits` bits sits in."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8


def packed_fields(codes: Tensor, mid: int, width: int) -> Tensor:
    """codes (N, K) uint8 -> fields (N, ceil(K / F)) int8, F = 8 / width fields a byte."""
    count = BYTE_BITS // width
    signed = (codes.to(torch.int16) - mid).to(torch.int8)
    planes = pad(signed, (0, -codes.shape[1] % count)).chunk(count, dim=1)
    fields = torch.zeros_like(planes[0])
    for index, plane in enumerate(planes):
        fields |= (plane & (2**width - 1 if width < BYTE_BITS else -1)) << (index * width)
    return fields


def signed_codes(fields: Tensor, width: int, in_features: int) -> Tensor:
    """fields (N, ceil(K / F)) int8 -> signed codes (N, K) int8. The second shift carries the sign down."""
    if width == BYTE_BITS:
        return fields
    planes = [fields << (BYTE_BITS - (index + 1) * width) for index in range(BYTE_BITS // width)]
    return torch.cat(planes, dim=1).bitwise_right_shift_(BYTE_BITS - width)[:, :in_features]


def expanded(packed: dict[str, Tensor], spec: LinearSpec, in_features: int, dtype: torch.dtype) -> Tensor:
    """Packed rows -> their weights (N, K) in `dtype`, each rounded once."""
    scales = packed["scales"]
    work = torch.promote_types(scales.dtype, dtype)
    codes = signed_codes(packed["fields"], field_bits(spec.weight.bits), in_features)
    groups = codes.reshape(codes.shape[0], scales.shape[1], -1).to(work)
    if not spec.weight.symmetric:
        groups.sub_(packed["zeros"].to(work).unsqueeze(-1))
    return groups.mul_(scales.to(work).unsqueeze(-1)).view(codes.shape).to(dtype)


def rows_of(packed: dict[str, Tensor], spec: LinearSpec, ids: Tensor, columns: int) -> Tensor:
    """Some rows (T,) of a packed weight (N, columns) -> their values (T, columns) float32."""
    return expanded({name: tensor[ids] for name, tensor in packed.items()}, spec, columns, torch.float32)


class TorchDequant:
    """Expand into x.dtype, then torch's own matrix product."""

    priority = 10
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Never refuses: torch runs it on every device."""
        return None

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> fields, scales and, asymmetric only, zeros."""
        mid = q.spec.mid
        packed = {"fields": packed_fields(q.codes, mid, field_bits(q.spec.bits)), "scales": q.scales}
        return packed if q.spec.symmetric else packed | {"zeros": (q.zeros.to(torch.int16) - mid).to(torch.int8)}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        x = fake_quantize_tokens(x, spec.input)
        n, k = packed["fields"].shape[0], x.shape[-1]
        rows = max(1, CPU_BLOCK // k) if x.device.type == "cpu" else n
        if rows >= n:
            return linear(x, expanded(packed, spec, k, x.dtype))
        y = x.new_empty(x.shape[0], n)
        for first in range(0, n, rows):
            block = {name: tensor[first : first + rows] for name, tensor in packed.items()}
            y[:, first : first + rows] = linear(x, expanded(block, spec, k, x.dtype))
        return y


KERNELS.add("torch_dequant")(TorchDequant())
