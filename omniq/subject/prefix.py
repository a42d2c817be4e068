"""Several answers to one prompt, scored on keys and values of the prompt that are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from omniq.subject.scoring import Encoded, Scored, batches, columns, keeps_logits

Group = Sequence[Encoded]
"""Answers, one or more, that follow the same prompt."""


def grouped(encoded: Sequence[Encoded]) -> tuple[list[list[int]], list[int]]:
    """Indices of answers in groups that share a prompt with others, and those of answers that share it with none."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(encoded):
        found.setdefault(tuple(one.ids[: one.prompt]), []).append(index)
    return [group for group in found.values() if len(group) > 1], [g[0] for g in found.values() if len(g) == 1]


def prompt_batches(groups: Sequence[Group], budget: int) -> Iterator[list[int]]:
    """Places of groups, those with long prompts first, in batches of at most `budget` padded tokens of prompts."""
    return batches([Encoded(group[0].ids[: group[0].prompt], 0) for group in groups], budget)


@torch.no_grad()
def scored_groups(
    model: nn.Module, groups: Sequence[Group], device: torch.device, budget: int, moments: bool = False
) -> list[list[Scored]] | None:
    """Every answer of every group, or None where the model's cache is not one of keys and values of every token.

    The prompts go first, all in one pass, padded on the right; the answers behind them in batches of similar length,
    each of at most `budget` padded tokens, those of the prompts counted.
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
    found = [[column[i : i + 1] for column in starts] for i in range(len(answers))]

    sizes = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longer = [i for i, answer in enumerate(answers) if len(answer) > 1]
    for places in batches([Encoded(answers[i][1:], 0) for i in longer], budget, extra=width):
        batch = [longer[place] for place in places]
        owners = owner[batch]
        cache = selected(out.past_key_values, owners)
        rests = continuation(model, cache, sizes[owners], [answers[i] for i in batch], moments)
        for i, rest in zip(batch, rests, strict=True):
            found[i] = [np.concatenate(pair) for pair in zip(found[i], rest, strict=True)]
    rows = iter(Scored(*one) for one in found)
    return [[next(rows) for _ in group] for group in groups]


def selected(cache: Any, owner: torch.Tensor) -> Any:
    """A cache of the keys and values of the prompts `owner` (B,), one row each; the one given stays as it is."""
    chosen = copy(cache)
    chosen.layers = [copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(owner)
    return chosen


def continuation(
    model: nn.Module, cache: Any, sizes: torch.Tensor, answers: Sequence[list[int]], moments: bool
) -> list[tuple[np.ndarray, ...]]:
    """The columns of the tokens of each of B answers but its first one.

    cache: a row for each answer, which is spent. sizes (B,): tokens of its prompt; what follows them is padding, masked
    out, and positions go on from the prompt's own end.
    """
    device, width, length = sizes.device, cache.get_seq_length(), max(map(len, answers)) - 1
    after = padded([answer[:-1] for answer in answers], length, device)
    before = sizes.unsqueeze(1)
    seen = torch.arange(width, device=device) < before
    logits = model(
        input_ids=after,
        past_key_values=cache,
        attention_mask=torch.cat([seen, torch.ones_like(after, dtype=torch.bool)], 1).long(),
        position_ids=before + torch.arange(length, device=device),
        use_cache=True,
    ).logits
    counts = [len(answer) - 1 for answer in answers]
    inside = torch.arange(length, device=device) < torch.tensor(counts, device=device).unsqueeze(1)
    values = columns(logits[inside], padded([answer[1:] for answer in answers], length, device)[inside], moments)
    return list(zip(*(np.split(column, np.cumsum(counts)[:-1]) for column in values), strict=True))


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
