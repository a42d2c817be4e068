"""How well a quantised checkpoint predicts a text, by itself or beside the model it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from omniq import hf
from omniq.eval.base import evaluate
from omniq.eval.windows import EvalSpec, protocol
from omniq.runtime import forward_of, load
from omniq.source import config_values


@dataclass(frozen=True)
class Quality:
    """What was measured over `tokens` predicted tokens of a text; protocol: how, as a sentence.

    ppl: perplexity of the quantised model. size: bytes of its safetensors files. bits_per_weight: of what is quantised,
    scales included; None where another tool wrote the checkpoint. ppl_original, kl (nats per token, from the original
    to the quantised model) and top1 (share of tokens with the same best guess): None unless it was compared.
    """

    ppl: float
    tokens: int
    protocol: str
    size: int
    bits_per_weight: float | None
    ppl_original: float | None = None
    kl: float | None = None
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Place(NamedTuple):
    """Where and how exactly a checkpoint computes: the arguments of omniq.load by name."""

    device: str
    dtype: torch.dtype | None
    activations: str
    embed_bits: int


def loaded_pair(
    checkpoint: Path, original: Path | nn.Module | None, place: Place, trust_remote_code: bool
) -> tuple[nn.Module, nn.Module | None]:
    """(the checkpoint on omniq's kernels, the original or None). original: its folder, or itself where it is loaded."""
    quantised = load(checkpoint, **place._asdict(), trust_remote_code=trust_remote_code)
    if isinstance(original, Path):
        dense = hf.load_dense(original, place.dtype or "auto", trust_remote_code=trust_remote_code)
        return quantised, dense.to(place.device)
    return quantised, original


def measured(
    quantised: nn.Module,
    original: nn.Module | None,
    spec: EvalSpec,
    taken: Tensor,
    tokenizer: Any,
    on_done: Callable[[int], object] = int,
) -> dict[str, Any]:
    """Perplexity and, beside the original, distance from it on the windows `taken` (B, T), with what they are."""
    before = forward_of(original) if original is not None else None
    rows = evaluate(before, forward_of(quantised), taken, spec.batch, on_done)
    figures = {row.metric: row.value for row in rows}
    return {**figures, "tokens": rows[0].n, "protocol": protocol(spec, taken, tokenizer)}


def recorded_bits(checkpoint: Path) -> float | None:
    """Bits per quantised weight as recorded in the checkpoint, None when another tool wrote it."""
    recorded = config_values(checkpoint).get("omniq")
    return recorded.get("bits_per_weight") if isinstance(recorded, dict) else None
