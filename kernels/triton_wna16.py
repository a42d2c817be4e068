"""W2 to W8 with float activations, in Triton: GEMV, GEMM and, for many tokens, expansion and torch's matmul.

Layout: _triton/layout.py, elements of 16 bits. The kernels and what limits them: _triton/wna16.py.

float32 activations are three bfloat16 terms (x = a + b + c, 8 bits each, exactly), stacked as 3 M tokens: tensor cores
multiply them with exact integers, and the float32 parts are added. That keeps float32's accuracy without TF32.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from omniq.kernels._triton.fields import field_count
from omniq.kernels._triton.launch import FAST, NAMES, check, device_reason, on, profile, total
from omniq.kernels._triton.layout import packed, run_length
from omniq.kernels._triton.table import Tile, shares, tile
from omniq.kernels._triton.wna16 import expand, gemm
from omniq.kernels.dispatch import KERNELS
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

ELEMENT = 16
TERMS = 3


def bfloat16_terms(x: Tensor) -> Tensor:
    """x (M, K) float32 -> (3 M, K) bfloat16: x = first + second + third, exactly."""
    terms = []
    for _ in range(TERMS):
        terms.append(x.to(torch.bfloat16))
        x = x - terms[-1].float()
    return torch.cat(terms)


def constants(packed: dict[str, Tensor], spec: LinearSpec, x: Tensor) -> dict[str, object]:
    """What the kernels are specialised on."""
    return {
        "BITS": spec.weight.bits,
        "E": packed["words"].shape[-1],
        "GROUP": spec.weight.group_size,
        "SCALE": NAMES[packed["extent"].dtype],
        "DTYPE": "fp16" if x.dtype == torch.float16 else "bf16",
        "FAST": FAST,
    }


def products(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, out: Tensor, tile: Tile, share: int) -> None:
    """x (M, K) -> out (splits, M, N); part s covers `share` tiles of K."""
    n, k = packed["extent"].shape[:2]
    m, tiles, e = x.shape[0], packed["words"].shape[1], packed["words"].shape[-1]
    gemm[triton.cdiv(n, tile.rows) * triton.cdiv(m, tile.tokens), out.shape[0]](
        x,
        packed["words"],
        packed["grids"],
        out,
        m,
        n,
        k,
        x.stride(0),
        tiles,
        share,
        RAGGED=k % (field_count(spec.weight.bits, ELEMENT) * e) != 0,
        BN=tile.rows,
        BM=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **constants(packed, spec, x),
    )


def multiplied(x: Tensor, packed: dict[str, Tensor], spec: LinearSpec, tile: Tile, share: int) -> Tensor:
    """x (M, K) -> (M, N) in x.dtype by the fused kernel; several parts, or terms, are added in float32."""
    n, m = packed["extent"].shape[0], x.shape[0]
    exact = x.dtype == torch.float32
    terms = bfloat16_terms(x) if exact else x if x.stride(1) == 1 else x.contiguous()
    splits = triton.cdiv(packed["words"].shape[1], share)
    whole = splits == 1 and not exact
    parts = x.new_empty(splits, terms.shape[0], n, dtype=x.dtype if whole else torch.float32)
    products(terms, packed, spec, parts, tile, share)
    return parts[0] if whole else total(parts, x.new_empty(m, n))


def expanded(packed: dict[str, Tensor], spec: LinearSpec, like: Tensor) -> Tensor:
    """The weight (N, K) in like.dtype (float16 or bfloat16), each element rounded once."""
    n, k = packed["extent"].shape[:2]
    strips, tiles = packed["words"].shape[:2]
    weight = like.new_empty(n, k)
    expand[tiles, strips](packed["words"], packed["grids"], weight, n, k, tiles, **constants(packed, spec, like))
    return weight


class TritonWnA16:
    """Fused up to a crossover in the number of tokens, expansion and torch's matmul above it."""

    priority = 34
    approximate = False

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """None for float activations on CUDA with groups of a multiple of 16 columns."""
        if spec.input is not None:
            return f"multiplies float activations, not {spec.input.bits}-bit integers"
        if run_length(spec.weight, shape[1], ELEMENT) is None:
            return f"needs a group size that is a multiple of 16, got {spec.weight.group_size}"
        return device_reason(device)

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> words, grids, extent."""
        return packed(q, ELEMENT)

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype."""
        check(x, packed, spec, ELEMENT)
        n, m, tiles = packed["extent"].shape[0], x.shape[0], packed["words"].shape[1]
        if m == 0:
            return x.new_empty(0, n)
        column, multiprocessors = profile(x.device)
        with on(x.device):
            if m >= column.expand_from and x.dtype != torch.float32:
                return x @ expanded(packed, spec, x).T
            tokens = m * TERMS if x.dtype == torch.float32 else m
            chosen = tile(column.floats, tokens)
            return multiplied(x, packed, spec, chosen, shares(chosen, n, tokens, tiles, multiprocessors))


KERNELS.add("triton_wna16")(TritonWnA16())
