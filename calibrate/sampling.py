"""Text sampled from the model itself: calibration data when there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def sample_from(
    model: nn.Module,
    bos: int | None,
    samples: int,
    length: int,
    seed: int,
    *,
    vocab: int,
    temperature: float = 1.0,
    batch: int = 16,
) -> Tensor:
    """-> ids (B, T) int64 on the CPU: sequences sampled from `model`, a causal LM called as the transformers ones are.

    Each starts with the beginning-of-text token where there is one (`bos`) and a random token, so that they differ.
    vocab: ids below it are sampled. `batch` sequences run at a time. Every sequence has its own random numbers: how
    they are grouped does not decide what is drawn.
    """
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(vocab, (samples, 1), generator=random)
    if bos is not None:
        first = torch.cat([torch.full_like(first, bos), first], dim=1)
    draws = torch.rand(samples, length, generator=random, dtype=torch.float64)
    parts = zip(first.split(batch), draws.split(batch), strict=True)
    return torch.cat([_continued(model, start, draw, vocab, temperature) for start, draw in parts])


def _continued(model: nn.Module, first: Tensor, draws: Tensor, vocab: int, temperature: float) -> Tensor:
    """first (B, F), draws (B, T) uniform in [0, 1) -> ids (B, T)."""
    device = next(model.parameters()).device
    ids, fed, past = first[:, : draws.shape[1]], first, None
    while ids.shape[1] < draws.shape[1]:
        out: Any = model(input_ids=fed.to(device), past_key_values=past, use_cache=True)
        fed = sampled(out.logits[:, -1, :vocab].cpu(), draws[:, ids.shape[1]], temperature)
        ids, past = torch.cat([ids, fed], dim=1), out.past_key_values
    return ids


def sampled(logits: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """logits (B, V), draws (B,) uniform in [0, 1) -> ids (B, 1): the token whose share of the mass holds the draw."""
    mass = (logits.double() / temperature).softmax(-1).cumsum(-1)
    ids = torch.searchsorted(mass, (draws * mass[:, -1]).unsqueeze(1), right=True)
    return ids.clamp(max=logits.shape[1] - 1)
