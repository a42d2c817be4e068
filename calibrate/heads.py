"""How an attention layer's rows divide into heads, read from the model's config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.models.adapter import Part


@dataclass(frozen=True)
class Heads:
    """q: query heads H. kv: key/value heads. dim: head_dim. rotary: leading dimensions of a head that rotate."""

    q: int
    kv: int
    dim: int
    rotary: int

    @property
    def share(self) -> int:
        """Query heads per KV head."""
        return self.q // self.kv


def heads_of(config: Any, rotary: str) -> Heads:
    """The head layout of a Hugging Face config; rotary is the adapter's 'half' or 'none'."""
    q = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or q
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        kv = 1
    dim = getattr(config, "head_dim", None) or config.hidden_size // q
    return Heads(q, kv, dim, rotary_dim(config, dim) if rotary == "half" else 0)


def rotary_dim(config: Any, dim: int) -> int:
    """Leading dimensions of a head that the rotary embedding turns (partial_rotary_factor of head_dim)."""
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    return int(dim * factor)


def rows(part: Part, heads: Heads, n: int) -> Tensor:
    """Row indices of `part` in a linear with N = n output rows: (rows,) int64, head by head."""
    index = torch.arange(n)
    if part.part == "all":
        return index
    if part.part in ("gate", "up"):
        return index.chunk(2)[0 if part.part == "gate" else 1]
    if n != (heads.q + 2 * heads.kv) * heads.dim:
        raise UnsupportedError(f"{part.name} has {n} rows; {heads} need {(heads.q + 2 * heads.kv) * heads.dim}")
    member = ("q", "k", "v").index(part.part)
    if part.layout == "concat":
        return index.split([heads.q * heads.dim, heads.kv * heads.dim, heads.kv * heads.dim])[member]
    if part.layout == "heads":
        return index.view(heads.q, 3, heads.dim)[:, member].reshape(-1)
    grouped = index.view(heads.kv, heads.share + 2, heads.dim)
    return grouped[:, slice(0, heads.share) if member == 0 else heads.share + member - 1].reshape(-1)
