"""W2 to W8 with activations quantised per token to 2 to 8 bits, in Triton, on int8 tensor cores.

Layout: _triton/layout.py, elements of 8 bits, and, where activations have zero points, `sums` (G, S * 64) int32: the
sum of each group's integers as the kernel multiplies them. The kernels and what limits them: _triton/wnai8.py and
_triton/quantize.py.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from omniq.kernels._triton.fields import field_count
from omniq.kernels._triton.launch import FAST, NAMES, check, device_reason, on, profile, total
from omniq.kernels._triton.layout import STRIP, packed, run_length
from omniq.kernels._triton.quantize import SMALLEST_STEP, quantize
from omniq.kernels._triton.table import Choices, Column, Tile, shares, tile
from omniq.kernels._triton.wnai8 import gemm_i8
from omniq.kernels.dispatch import KERNELS
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, LinearSpec

ELEMENT = 8
LONGEST = 1 << 15
"""Columns that one int32 sums: 255 * 255 * 2**15 < 2**31."""
BLOCK = 2048


def quantized_tokens(x: Tensor, spec: ActSpec, padded: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (M, K) -> codes (M, padded) int8, 0 from column K on, scales (M,) float32, zeros (M,) int32; as omniq.grid."""
    m, k = x.shape
    codes = x.new_empty(m, padded, dtype=torch.int8)
    scales, zeros = x.new_empty(m, dtype=torch.float32), x.new_empty(m, dtype=torch.int32)
    quantize[(m,)](
        x,
        codes,
        scales,
        zeros,
        k,
        padded,
        x.stride(0),
        BITS=spec.bits,
        SYMMETRIC=spec.symmetric,
        EPS=SMALLEST_STEP[NAMES[x.dtype]],
        RECIPROCAL=x.device.type == "cuda",
        FAST=FAST,
        BLOCK=min(BLOCK, triton.next_power_of_2(padded)),
        num_warps=8,
    )
    return codes, scales, zeros


def group_sums(q: QTensor) -> Tensor:
    """codes (N, K) -> (G, S * 64) int32: the sum over each group of (code - zero), counted as byte_field counts it."""
    (n, k), groups = q.shape, q.scales.shape[1]
    gain = 2 ** (8 - q.spec.bits) if q.spec.symmetric else 1
    sums = q.codes.view(n, groups, -1).sum(-1, dtype=torch.int32) - q.zeros.to(torch.int32) * (k // groups)
    return pad((sums * gain).T, (0, -n % STRIP)).contiguous()


def products(
    tokens: tuple[Tensor, Tensor, Tensor],
    packed: dict[str, Tensor],
    spec: LinearSpec,
    out: Tensor,
    tile: Tile,
    share: int,
) -> None:
    """tokens: codes (M, padded), scales, zeros (M,) -> out (splits, M, N); part s covers `share` tiles of K."""
    n, m, tiles = packed["extent"].shape[0], tokens[0].shape[0], packed["words"].shape[1]
    shifted = not spec.input.symmetric
    gemm_i8[triton.cdiv(n, tile.rows) * triton.cdiv(m, tile.tokens), out.shape[0]](
        *tokens,
        packed["words"],
        packed["grids"],
        packed["sums"] if shifted else tokens[1],
        out,
        m,
        n,
        packed["grids"].shape[0],
        tiles,
        share,
        BITS=spec.weight.bits,
        E=packed["words"].shape[-1],
        GROUP=spec.weight.group_size,
        SCALE=NAMES[packed["extent"].dtype],
        SYMMETRIC=spec.weight.symmetric,
        SHIFTED=shifted,
        FAST=FAST,
        BN=tile.rows,
        BM=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def multiplied(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, tile: Tile, share: int) -> Tensor:
    """x (M, K) -> (M, N) in x.dtype: quantise, multiply, and add the parts where there are several."""
    (n, m), (tiles, e) = (packed["extent"].shape[0], x.shape[0]), packed["words"].shape[1::3]
    x = x if x.stride(1) == 1 else x.contiguous()
    tokens = quantized_tokens(x, spec.input, tiles * field_count(spec.weight.bits, ELEMENT) * e)
    splits = triton.cdiv(tiles, share)
    parts = x.new_empty(splits, m, n, dtype=x.dtype if splits == 1 else torch.float32)
    products(tokens, packed, spec, parts, tile, share)
    return parts[0] if splits == 1 else total(parts, x.new_empty(m, n))


def choices(column: Column, spec: LinearSpec) -> Choices:
    """The tiles that fit the registers: those of up to 64 tokens where the kernel keeps more sums or zero points."""
    weight = spec.weight
    halves = weight.bits == 8 and not weight.symmetric
    if weight.group_size == -1 and not halves:
        return column.channels
    shifted = not spec.input.symmetric
    return tuple(tile for tile in column.groups if tile.tokens <= 64) if halves or shifted else column.groups


class TritonWnAI8:
    """Quantise the tokens, multiply integers."""

    priority = 35
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """None for integer activations on CUDA with groups of a multiple of 32 columns."""
        if spec.input is None:
            return "multiplies integer activations, not floating point"
        if spec.input.clip != 1:
            return "spans the whole range of a token, and this scheme clips it"
        if run_length(spec.weight, shape[1], ELEMENT) is None:
            return f"needs a group size that is a multiple of 32, got {spec.weight.group_size}"
        if spec.weight.width(shape[1]) > LONGEST:
            return f"needs at most {LONGEST} columns per scale, got {spec.weight.width(shape[1])}"
        return device_reason(device)

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> words, grids, extent and, where activations are asymmetric, sums."""
        tensors = packed(q, ELEMENT)
        if spec.input.symmetric:
            return tensors
        return tensors | {"sums": group_sums(q)}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        check(x, packed, spec, ELEMENT)
        n, m, tiles = packed["extent"].shape[0], x.shape[0], packed["words"].shape[1]
        if m == 0:
            return x.new_empty(0, n)
        column, multiprocessors = profile(x.device)
        chosen = tile(choices(column, spec), m)
        with on(x.device):
            return multiplied(x, packed, spec, chosen, shares(chosen, n, m, tiles, multiprocessors))


KERNELS.add("triton_wnai8")(TritonWnAI8())
