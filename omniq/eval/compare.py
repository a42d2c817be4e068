"""Both models over the same windows, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omniq.eval.base import Forward, evaluate


@dataclass(frozen=True)
class Comparison:
    """Perplexities, KL(original || quantised) in nats per token and top-1 agreement, over `tokens` predicted tokens."""

    ppl_original: float
    ppl: float
    kl: float
    top1: float
    tokens: int


def compare(original: Forward, quantised: Forward, windows: Tensor, batch: int = 1) -> Comparison:
    """windows (B, T) -> Comparison; each model sees every window once."""
    rows = evaluate(original, quantised, windows, batch)
    values = {row.metric: row.value for row in rows}
    return Comparison(values["ppl_original"], values["ppl"], values["kl"], values["top1"], rows[0].n)
