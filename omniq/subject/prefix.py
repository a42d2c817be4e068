"""Several answers to one prompt, scored on keys and values of the prompt that are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from omniq.subject.scoring import Encoded, Scored, columns, keeps_logits

Group = Sequence[Encoded]
"""Answers, one or more, that follow the same prompt."""


def grouped(encoded: Sequence[Encoded]) -> tuple[list[list[int]], list[int]]:
    """Indices of answers in groups that share a prompt with others, and those of answers that share it with none."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(encoded):
        found.setdefault(tuple(one.ids[: one.prompt]), []).append(index)
    return [group for group in found.values() if len(group) > 1], [g[0] for g in found.values() if len(g) == 1]


def group_batches(groups: Sequence[Group], budget: int) -> Iterator[list[int]]:
    """Places of groups, those with long answers first, in batches of at most `budget` padded tokens of both passes."""
    answer = [max(len(row.ids) - row.prompt for row in group) for group in groups]
    batch: list[int] = []
    for place in sorted(range(len(groups)), key=lambda i: (-answer[i], -groups[i][0].prompt, i)):
        held = [*batch, place]
        rows, prompt = sum(len(groups[i]) for i in held), max(groups[i][0].prompt for i in held)
        if batch and len(held) * prompt + rows * answer[held[0]] > budget:
            yield batch
            held = [place]
        batch = held
    if batch:
        yield batch


@torch.no_grad()
def scored_groups(
    model: nn.Module, groups: Sequence[Group], device: torch.device, moments: bool = False
) -> list[list[Scored]] | None:
    """Every answer of every group, or None where the model's cache is not one of keys and values of every token.

    Two passes: the prompts, padded on the right, and the answers behind them, with the padding masked out and
    positions that go on from each prompt's own end.
    """
    prompts = [group[0].ids[: group[0].prompt] for group in groups]
    width = max(map(len, prompts))
    last = sorted({len(prompt) - 1 for prompt in prompts})
    kept = {"logits_to_keep": torch.tensor(last, device=device)} if keeps_logits(model) else {}
    out = model(input_ids=padded(prompts, width, device), use_cache=True, **kept)
    if not holds_all(out.past_key_values, len(groups), width):
        return None
    owner = torch.tensor([place for place, group in enumerate(groups) for _ in group], device=device)
    answers = [row.ids[row.prompt :] for group in groups for row in group]
    ends = [last.index(len(prompt) - 1) if kept else len(prompt) - 1 for prompt in prompts]
    first = out.logits[torch.arange(len(groups)), ends][owner]
    starts = columns(first, torch.tensor([answer[0] for answer in answers], device=device), moments)

    rests = [start[:0] for start in starts]
    if any(len(answer) > 1 for answer in answers):
        sizes = [len(prompt) for prompt in prompts]
        rests = continuation(model, out.past_key_values, sizes, owner, answers, moments)
    rows = [Scored(*values) for values in zip(*map(partial(joined, answers), starts, rests), strict=True)]
    bounds = np.cumsum([len(group) for group in groups])
    return [rows[end - len(group) : end] for group, end in zip(groups, bounds, strict=True)]


def continuation(
    model: nn.Module, cache: Any, sizes: Sequence[int], owner: torch.Tensor, answers: Sequence[list[int]], moments: bool
) -> list[np.ndarray]:
    """Columns of all answers' tokens but their first ones, one after another.

    sizes: tokens of each of P prompts in the cache. owner: (B,), to which of them an answer belongs.
    """
    device, width, length = owner.device, cache.get_seq_length(), max(map(len, answers)) - 1
    after = padded([answer[:-1] for answer in answers], length, device)
    before = torch.tensor(sizes, device=device)[owner].unsqueeze(1)
    seen = torch.arange(width, device=device) < before
    cache.batch_select_indices(owner)
    logits = model(
        input_ids=after,
        past_key_values=cache,
        attention_mask=torch.cat([seen, torch.ones_like(after, dtype=torch.bool)], 1).long(),
        position_ids=before + torch.arange(length, device=device),
        use_cache=True,
    ).logits
    counts = torch.tensor([len(answer) - 1 for answer in answers], device=device).unsqueeze(1)
    inside = torch.arange(length, device=device) < counts
    return columns(logits[inside], padded([answer[1:] for answer in answers], length, device)[inside], moments)


def joined(answers: Sequence[list[int]], start: np.ndarray, rest: np.ndarray) -> list[np.ndarray]:
    """One column of first tokens (B,) and of all others, one after another -> the column of each answer."""
    parts = np.split(rest, np.cumsum([len(answer) - 1 for answer in answers])[:-1])
    return [np.concatenate([start[i : i + 1], part]) for i, part in enumerate(parts)]


def padded(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> torch.Tensor:
    """Ids (B rows of at most T) -> (B, T), filled up on the right."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def holds_all(cache: Any, count: int, width: int) -> bool:
    """Whether every layer of the cache has keys and values (B, H, T, D) of all T tokens, which can be repeated."""
    layers, repeat = getattr(cache, "layers", None), getattr(cache, "batch_select_indices", None)
    if not layers or repeat is None:
        return False
    keys = [getattr(layer, "keys", None) for layer in layers]
    return all(
        isinstance(k, torch.Tensor) and k.dim() == 4 and (k.shape[0], k.shape[2]) == (count, width) for k in keys
    )
