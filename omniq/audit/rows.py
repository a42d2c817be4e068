"""From numbers of items to measurements: of a split, of each attribute in it, and why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from omniq.audit.base import Context, Found, Metric, Missing, measurement
from omniq.knowledge.items import Item, Knowledge

FEWEST = 8
"""Items that a relation must have for a row of its own."""

Look = Callable[[str, Sequence[Item]], Found]
"""(split, its items) -> what is found about them."""


def by_split(context: Context, metrics: Sequence[Metric], form: str, having: Sequence[str], look: Look) -> Found:
    """What `look` finds in every split, of the items of a form that have all these fields, or why there is nothing.

    A form that the data does not have at all is said once, not for every split.
    """
    knowledge = context.knowledge
    splits = knowledge.splits() if knowledge.of(form=form, having=having) else ("",)
    found: Found = []
    for split in splits:
        items = knowledge.of(split, form, having) if split else ()
        found += look(split, items) if items else lacking(metrics, knowledge, split, form, having)
    return found


def lacking(
    metrics: Sequence[Metric], knowledge: Knowledge, split: str, form: str, having: Sequence[str]
) -> list[Missing]:
    """A Missing for every metric that names the first thing which no item of the split (any, where it is '') has."""
    whose = f"{knowledge.name} {split}".strip()
    reason = f"{whose} has no items of the form {form}"
    if knowledge.of(split or None, form):
        absent = [name for name in having if not knowledge.of(split or None, form, (name,))]
        reason = f"{whose} items of the form {form} have no {' and '.join(absent or having)}"
    return [Missing(metric.name, split, reason) for metric in metrics]


def rows(
    metric: Metric,
    split: str,
    items: Sequence[Item],
    values: Mapping[str, float],
    *,
    texts: Mapping[str, str] | None = None,
    chances: Mapping[str, float] | None = None,
    gate: str = "ok",
    note: str = "",
) -> Found:
    """values by item id -> a measurement of the split, and one of each relation with enough items if there are several.

    texts: what the model wrote, kept on the first only. chances: of every item, where the metric itself has none.
    """

    def measured(group: Sequence[Item], attribute: str) -> Found:
        own = {item.id: values[item.id] for item in group}
        more = {} if chances is None else {"chance": float(np.mean([chances[item] for item in own]))}
        if texts is not None and not attribute:
            more["texts"] = tuple(texts[item] for item in own)
        return [measurement(metric, split, own, attribute=attribute, gate=gate, note=note, **more)]

    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.relation, []).append(item)
    found = measured(items, "")
    if len(groups) > 1:
        for relation, group in groups.items():
            if relation and len(group) >= FEWEST:
                found += measured(group, relation)
    return found
