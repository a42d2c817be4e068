"""Log-probabilities of given tokens, in batches of similar length."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from omniq.eval.base import CHUNK_VALUES, log_total


@dataclass(frozen=True)
class Encoded:
    """ids (T,) of prompt and answer together; the first `prompt` of them are given, the rest is scored."""

    ids: list[int]
    prompt: int

    def cut(self, limit: int | None) -> Encoded:
        """The first `limit` tokens, of which one at least is scored."""
        return self if limit is None else Encoded(self.ids[: max(limit, self.prompt + 1)], self.prompt)


@dataclass(frozen=True, eq=False)
class Scored:
    """The answer's tokens ids (A,), their log-probabilities logp (A,) in nats, their ranks (A,), 0 the most likely.

    mean, deviation: of log p under the model at each token (A,), when asked for. A token is greedy where its rank is 0.
    """

    ids: np.ndarray
    logp: np.ndarray
    rank: np.ndarray
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None


def batches(encoded: Sequence[Encoded], budget: int, extra: int = 0) -> Iterator[list[int]]:
    """Indices, longest first, in batches of at most `budget` padded tokens (a longer sequence is a batch by itself)."""
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].ids), -encoded[i].prompt, i))
    while order:
        fitting = max(1, budget // (len(encoded[order[0]].ids) + extra))
        yield order[:fitting]
        order = order[fitting:]


def keeps_logits(model: nn.Module) -> bool:
    """Whether the model computes logits at chosen positions only, when told which."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@torch.no_grad()
def scored_batch(
    model: nn.Module, rows: Sequence[Encoded], device: torch.device, moments: bool = False
) -> list[Scored]:
    """Every row's answer scored in one forward pass; padded on the right, which a causal model never looks at."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)
    first = min(row.prompt for row in rows) - 1
    kept = torch.arange(first, width - 1, device=device)
    logits = model(input_ids=ids, use_cache=False, **({"logits_to_keep": kept} if keeps_logits(model) else {})).logits
    if not keeps_logits(model):
        logits = logits[:, kept]
    inside = torch.zeros(len(rows), width - 1 - first, dtype=torch.bool, device=device)
    for index, row in enumerate(rows):
        inside[index, row.prompt - 1 - first : len(row.ids) - 1 - first] = True
    values = columns(logits[inside], ids[:, first + 1 :][inside], moments)
    sizes = [len(row.ids) - row.prompt for row in rows]
    parts = [np.split(column, np.cumsum(sizes)[:-1]) for column in values]
    return [Scored(*one) for one in zip(*parts, strict=True)]


def columns(logits: Tensor, targets: Tensor, moments: bool) -> list[np.ndarray]:
    """logits (M, V), targets (M,) -> ids, log-probability, rank and, when asked for, mean and deviation, each (M,)."""
    size = max(1, CHUNK_VALUES // logits.shape[1])
    found = [_chunk(*pair, moments) for pair in zip(logits.split(size), targets.split(size), strict=True)]
    return [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]


def _chunk(logits: Tensor, targets: Tensor, moments: bool) -> list[Tensor]:
    """As columns, of a few rows."""
    logits = logits.float()
    total = log_total(logits, "the model")
    chosen = logits.gather(-1, targets.unsqueeze(-1))
    columns = [targets, chosen.squeeze(-1).double() - total.double(), (logits > chosen).sum(-1)]
    if moments:
        log_p = logits - total.unsqueeze(-1)
        p = log_p.exp()
        finite = log_p.masked_fill(log_p.isneginf(), 0.0)
        mean = (p * finite).sum(-1).double()
        columns += [mean, ((p * finite.square()).sum(-1).double() - mean.square()).clamp_min(0.0).sqrt()]
    return columns
