"""Attention whose q, k and v pass through an integer grid, as a weight-activation scheme computes it at run time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniq.grid import fake_quantize_tokens
from omniq.hadamard import transformed
from omniq.spec import ActSpec, HeadSpec


def set_attention(module: nn.Module, spec: ActSpec | None) -> int:
    """Puts the grid of q, k and v on every submodule (None: floating point); the number of attention modules found.

    It acts where the model was built with omniq's attention function; elsewhere it is never read.
    """
    parts = list(module.modules())
    for part in parts:
        part.omniq_attention = spec
    return sum("Attention" in type(part).__name__ for part in parts)


def quantized_heads(module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, H, T, D) with every token of every head on its own grid over D; as they are without a spec."""
    spec = getattr(module, "omniq_attention", None)
    if isinstance(spec, HeadSpec) and spec.hadamard:
        q, k = transformed(q), transformed(k)
    if not (isinstance(spec, HeadSpec) and not spec.queries):
        q = fake_quantize_tokens(q, spec)
    return q, fake_quantize_tokens(k, spec), fake_quantize_tokens(v, spec)


def capped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor:
    """q (B, H, T, D), k and v (B, H/n, S, D) -> (B, T, H, D), scores bounded by softcap * tanh(score / softcap).

    mask: boolean (B, 1, T, S), True where attended, or added to the scores; None is causal, aligned to the end of S.
    """
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = torch.tanh(q @ k.transpose(2, 3) * scaling / softcap) * softcap
    weights = torch.softmax(masked(scores, mask), dim=-1, dtype=torch.float32).to(q.dtype)
    return (weights @ v).transpose(1, 2).contiguous()


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """scores (B, H, T, S) with what must not be attended at the lowest finite value."""
    t, s = scores.shape[-2:]
    if mask is None:
        mask = torch.ones(t, s, dtype=torch.bool, device=scores.device).tril(s - t)
    if mask.dtype != torch.bool:
        return scores + mask
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
