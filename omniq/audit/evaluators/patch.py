"""patch: a model's states put into the original while it reads an answer: what they lack, the original cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from omniq.audit.asking import asked
from omniq.audit.base import EVALUATORS, LATENT, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.basis import foreign
from omniq.audit.metrics.depth import SMALLEST_GAP, depth_scores
from omniq.audit.metrics.layers import spread
from omniq.audit.models import NEVER, ORIGINAL
from omniq.audit.rows import lacking
from omniq.knowledge.items import Item
from omniq.subject.model import Subject, leaving, mean_logp
from omniq.subject.scoring import Encoded, batches, scored_batch

SPLIT = "forget"
MOST_LAYERS = 12
"""Each layer is another pass over every answer; UDS is a weighted mean over layers, of which these are enough."""

UDS = Metric(
    "uds", "unlearning depth: share of the never-trained model's gap in the layers; 1 as deep, 0 none of it",
    knowledge=-1, family=LATENT, chance=1.0,
)  # fmt: skip
DROP = Metric("patch_drop", "nats a token that the original loses with the states of a layer patched in", -1, LATENT)
METRICS = (UDS, DROP)


def observe(subject: Subject, context: Context) -> Found:
    """UDS of every forgotten answer, and the loss by layer."""
    items = context.knowledge.of(SPLIT, "qa", ("question", "answer"))
    if not items:
        return lacking(METRICS, context.knowledge, SPLIT, "qa", ("question", "answer"))
    if NEVER not in context.folders:
        reason = "it measures against a model never trained on the forget set; give one with --never"
        return [Missing(metric.name, SPLIT, reason) for metric in METRICS]
    original = subject if context.name == ORIGINAL else context.load(ORIGINAL)
    layers = spread(len(original.blocks), min(context.settings.probe_layers or MOST_LAYERS, MOST_LAYERS))
    prompts = [original.template.prompt(item.question) for item in items]

    def gap_of_never() -> ndarray | str:
        never = subject if context.name == NEVER else context.load(NEVER)
        return foreign(never, original, prompts) or drops(original, never, items, layers)

    gap = context.kept("patch/never", gap_of_never)
    reason = gap if isinstance(gap, str) else foreign(subject, original, prompts)
    if reason:
        return [Missing(metric.name, SPLIT, reason) for metric in METRICS]
    drop = gap if context.name == NEVER else drops(original, subject, items, layers)
    return measured(items, gap, drop, layers)


def measured(items: Sequence[Item], gap: ndarray, drop: ndarray, layers: Sequence[int]) -> Found:
    """gap, drop (N, L) in nats a token, of the never-trained and the tested model -> rows."""
    ids = [item.id for item in items]
    if not np.isfinite(gap).all() or not np.isfinite(drop).all():
        return [Missing(metric.name, SPLIT, "the patched model does not give finite numbers") for metric in METRICS]
    rows: Found = [
        Measurement(DROP, SPLIT, tuple(ids), drop[:, place], layer=layer) for place, layer in enumerate(layers)
    ]
    values = depth_scores(gap, drop)
    known = ~np.isnan(values)
    lost = int((~known).sum())
    if not known.any():
        reason = (
            f"the never-trained model's states cost the original no answer {SMALLEST_GAP:g} nats a token in any layer"
        )
        return [Missing(UDS.name, SPLIT, reason), *rows]
    note = f"{lost} answers left out that the never-trained model's states do not harm" if lost else ""
    kept = tuple(item for item, own in zip(ids, known, strict=True) if own)
    return [Measurement(UDS, SPLIT, kept, values[known], excluded=lost, note=note, chance=UDS.chance), *rows]


@torch.no_grad()
def drops(original: Subject, source: Subject, items: Sequence[Item], layers: Sequence[int]) -> ndarray:
    """Mean log-probability of each answer's tokens in the original less that with source's states: (N, L) nats a token.

    At each layer in turn the block's output is replaced at the positions that predict the answer's tokens, from the end
    of the prompt to the last token but one; the whole answer is taken as the entity.
    """
    encoded = [original.encode(*asked(original, item.question, item.answer)) for item in items]
    found = np.zeros((len(items), len(layers)))
    for indices in batches(encoded, original.batch_tokens):
        rows = [encoded[i] for i in indices]
        states = source.hidden(padded(rows, source.device))
        mask = predicting(rows).to(original.device)
        whole = means(original, rows)
        for place, layer in enumerate(layers):
            with patched(original.blocks[layer - 1], states[layer].to(original.device), mask):
                found[indices, place] = whole - means(original, rows)
    return found


def padded(rows: Sequence[Encoded], device: torch.device) -> Tensor:
    """Ids (B, T), filled on the right as in scoring."""
    width = max(len(row.ids) for row in rows)
    return torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)


def predicting(rows: Sequence[Encoded]) -> Tensor:
    """(B, T) True where a state predicts a token of the answer."""
    mask = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.bool)
    for index, row in enumerate(rows):
        mask[index, row.prompt - 1 : len(row.ids) - 1] = True
    return mask


def means(subject: Subject, rows: Sequence[Encoded]) -> ndarray:
    """Mean log-probability of each row's answer (B,) in nats a token."""
    return np.array([mean_logp(one) for one in scored_batch(subject.model, rows, subject.device)])


@contextmanager
def patched(block: nn.Module, states: Tensor, mask: Tensor) -> Iterator[None]:
    """While it lasts, the block gives states (B, T, D) where mask (B, T) is True, and its own output elsewhere."""

    def replaced(_: nn.Module, args: tuple, out: Any) -> Any:
        own = leaving(out)
        mixed = torch.where(mask.unsqueeze(-1), states.to(own.dtype), own)
        return mixed if isinstance(out, Tensor) else (mixed, *out[1:])

    hook = block.register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


EVALUATORS.add("patch")(
    Evaluator(observe, "states patched into the original (unlearning depth score)", METRICS, cost="high")
)
