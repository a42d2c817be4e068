"""lens: how likely the answer's first token is when a layer's state is read as if it were the last (logit lens)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from omniq.audit.base import EVALUATORS, LATENT, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.metrics.layers import spread
from omniq.audit.models import ORIGINAL
from omniq.audit.readout import Readout, readout
from omniq.audit.rows import lacking
from omniq.errors import UnsupportedError
from omniq.knowledge.items import SPLITS, Item, Knowledge
from omniq.subject.model import Subject

LEAST_GAP = math.log(2)
"""Nats by which a layer of the original must prefer right answers to wrong ones to know them: twice as likely."""

JUDGED_ON = ("retain", "world", "forget")
"""The first of these splits that there is decides which layers of the original know."""

LOGP = Metric("lens_logp", "log-probability of the answer's first token, read from a layer", family=LATENT)
RANK = Metric("lens_rank", "log2 of the first token's place among all tokens, read from a layer", -1, LATENT)
BEST = Metric("lens_best", "highest lens_logp of an item in the layers in which the original knows", family=LATENT)
METRICS = (LOGP, RANK, BEST)


@dataclass(frozen=True, eq=False)
class Lens:
    """Of N items at L layers: log-probability of the right token (N, L), its place (N, L), 0 the likeliest.

    wrong (N, L): log-probability of another answer's token, nan for an item that has none.
    """

    right: ndarray
    place: ndarray
    wrong: ndarray


def observe(subject: Subject, context: Context) -> Found:
    """Both metrics by layer and the summary, on every split."""
    knowledge, layers = context.knowledge, spread(len(subject.blocks), context.settings.probe_layers)
    items = {split: questions(knowledge, split) for split in knowledge.splits()}
    asked = next((group for group in items.values() if group), None)
    if asked is None:
        return lacking(METRICS, knowledge, "", "qa", ("question", "answer"))
    try:
        read = readout(subject, subject.template.prompt(asked[0].question))
        knowing = context.kept("lens/knowing", lambda: knowing_layers(subject, context, layers))
    except UnsupportedError as error:
        return [Missing(metric.name, "", str(error)) for metric in METRICS]
    found: Found = []
    for split, group in items.items():
        if group:
            found += measured(split, group, lens(subject, read, group, layers), layers, knowing)
        else:
            found += lacking(METRICS, knowledge, split, "qa", ("question", "answer"))
    return found


def questions(knowledge: Knowledge, split: str) -> tuple[Item, ...]:
    """The items of a split that have a question and an answer."""
    return knowledge.of(split, "qa", ("question", "answer"))


def knowing_layers(subject: Subject, context: Context, layers: Sequence[int]) -> tuple[int, ...]:
    """Indices of the layers at which the original prefers right answers to wrong ones by LEAST_GAP; () where none."""
    original = subject if context.name == ORIGINAL else context.load(ORIGINAL)
    held = (questions(context.knowledge, split) for split in (*JUDGED_ON, *SPLITS))
    group = next(items for items in held if items)
    read = readout(original, original.template.prompt(group[0].question))
    found = lens(original, read, group, layers)
    gaps = found.right - found.wrong
    known = ~np.isnan(gaps[:, 0])
    return tuple(map(int, np.flatnonzero(gaps[known].mean(0) >= LEAST_GAP))) if known.any() else ()


def others(items: Sequence[Item]) -> list[str | None]:
    """For every item a wrong answer of the same wording: the next different one to the same kind of question."""
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.relation, []).append(index)
    found: list[str | None] = [None] * len(items)
    for group in groups.values():
        for place, index in enumerate(group):
            rest = (items[other].answer for other in group[place + 1 :] + group[:place])
            found[index] = next((answer for answer in rest if answer != items[index].answer), None)
    return found


@torch.no_grad()
def lens(subject: Subject, read: Readout, items: Sequence[Item], layers: Sequence[int]) -> Lens:
    """What each of the layers says of the first token of each item's answer, at the last token of its question."""
    encoded = [subject.encode(subject.template.prompt(i.question), subject.template.answer(i.answer)) for i in items]
    prompts = [one.ids[: one.prompt] for one in encoded]
    right = [one.ids[one.prompt] for one in encoded]
    wrong = [None if text is None else subject.tokens(subject.template.answer(text))[0] for text in others(items)]
    found = np.full((3, len(items), len(layers)), np.nan)
    for indices in subject.by_length(prompts):
        width = len(prompts[indices[0]])
        rows = [prompts[i] + [subject.pad] * (width - len(prompts[i])) for i in indices]
        ends = torch.tensor([len(prompts[i]) - 1 for i in indices], device=subject.device)
        states = subject.hidden(torch.tensor(rows, device=subject.device))
        at = torch.arange(len(indices), device=subject.device)
        targets = torch.tensor(
            [[right[i], right[i] if wrong[i] is None else wrong[i]] for i in indices], device=at.device
        )
        for place, layer in enumerate(layers):
            log_p = read(states[layer][at, ends]).log_softmax(-1)
            chosen = log_p.gather(-1, targets)
            ranks = (log_p > chosen[:, :1]).sum(-1)
            found[:, indices, place] = torch.stack([chosen[:, 0], ranks.float(), chosen[:, 1]]).double().cpu().numpy()
    found[2, [text is None for text in wrong]] = np.nan
    return Lens(*found)


def measured(split: str, items: Sequence[Item], found: Lens, layers: Sequence[int], knowing: tuple[int, ...]) -> Found:
    """The rows of a split. Chance: what other answers to the same kind of question score."""
    ids = tuple(item.id for item in items)
    gate = "ok" if knowing else "no_capability"
    if not np.isfinite(found.right).all():
        return [Missing(metric.name, split, "the layers do not give finite numbers") for metric in METRICS]
    rows: Found = []
    for place, layer in enumerate(layers):
        chance = mean_known(found.wrong[:, place])
        rows.append(Measurement(LOGP, split, ids, found.right[:, place], layer=layer, chance=chance, gate=gate))
        rows.append(Measurement(RANK, split, ids, np.log2(1 + found.place[:, place]), layer=layer, gate=gate))
    if not knowing:
        return [*rows, Missing(BEST.name, split, "no layer of the original prefers right answers to wrong ones")]
    columns, words = list(knowing), ", ".join(str(layers[place]) for place in knowing)
    best, chance = found.right[:, columns].max(1), mean_known(found.wrong[:, columns].max(1))
    note = f"of the layers {words}, in which the original knows"
    return [*rows, Measurement(BEST, split, ids, best, chance=chance, gate=gate, note=note)]


def mean_known(values: ndarray) -> float | None:
    """The mean of the values (N,) that are there, None without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


EVALUATORS.add("lens")(Evaluator(observe, "answers read from the states of every layer (logit lens)", METRICS))
