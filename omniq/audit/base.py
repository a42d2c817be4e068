"""Evaluator: from one model and what it may know to numbers per item; Measurement, Metric, Context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from omniq.knowledge.items import Knowledge
from omniq.registry import Registry
from omniq.subject.model import Subject

T = TypeVar("T")

ROLES = ("orig_fp", "never_fp", "orig_q", "unl_fp", "unl_q")
"""The original; a model never trained on the forget set; the original quantised, which is the control; the unlearned
model; the unlearned model quantised. They are measured in this order, so that each finds what it is compared with."""

BEHAVIOUR, LATENT, MEMBERSHIP, UTILITY, WEIGHTS = "behaviour", "latent", "membership", "utility", "weights"
FAMILIES = (BEHAVIOUR, LATENT, MEMBERSHIP, UTILITY, WEIGHTS)


@dataclass(frozen=True)
class Metric:
    """name: 'es'. knowledge: +1 where more of it means more knowledge, -1 where less does, 0 where neither.

    family: what kind of evidence it is: behaviour is what a user sees, latent what a probe or an attack brings out.
    combine: how values of items become one number, by name in omniq.audit.statistics.COMBINE. binary: every value is
    0 or 1. chance: what ignorance scores, None where that depends on the item and the measurement says it.
    """

    name: str
    summary: str
    knowledge: int = 1
    family: str = BEHAVIOUR
    combine: str = "mean"
    binary: bool = False
    chance: float | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """One metric on one split for one model: a finite value (n,) for every item, in the order of `items`.

    reference: values (m,) of the other group or model, for metrics that compare two (AUC, KS). texts: what the model
    wrote, one per item, or none. excluded: items left out, and `note` why. gate: 'ok', or why the number says
    nothing: 'floor', 'no_capability', 'collapsed'.
    """

    metric: Metric
    split: str
    items: tuple[str, ...]
    values: np.ndarray
    attribute: str = ""
    layer: int | None = None
    reference: np.ndarray | None = None
    texts: tuple[str, ...] = ()
    excluded: int = 0
    chance: float | None = None
    gate: str = "ok"
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes measurements of two models comparable: metric, split, attribute and layer (-1: none)."""
        return self.metric.name, self.split, self.attribute, -1 if self.layer is None else self.layer


@dataclass(frozen=True)
class Missing:
    """A metric that cannot be computed here, and why, in words for people. It is shown as N/A, never as a zero."""

    metric: str
    split: str
    reason: str


Found = list[Measurement | Missing]


@dataclass(frozen=True)
class Settings:
    """What a preset decides. items: at most so many of a split, by form; a form that is not named is kept whole.

    studied: the same for items that a probe learns from.
    answer_tokens: written at most per answer. text_tokens: scored at most of a document. probe_layers: at most so many
    layers, spread evenly; 0 takes all. relearn_steps: at which relearning is looked at. resamples: of the bootstrap.
    """

    name: str
    items: Mapping[str, int]
    evaluators: tuple[str, ...]
    studied: Mapping[str, int] = field(default_factory=dict)
    answer_tokens: int = 200
    text_tokens: int = 512
    probe_layers: int = 0
    relearn_steps: tuple[int, ...] = (0, 5, 10, 20, 40)
    relearn_rate: float = 1e-4
    resamples: int = 10_000
    seed: int = 0


@dataclass(eq=False)
class Context:
    """What an evaluator may look at beside the model itself.

    role: of the model at hand, and name, which also tells two quantised models apart. folders: model folders by name.
    measured: what has been found so far, by name and evaluator; models are measured in the order of ROLES. load,
    trainable: another model by name, for inference or as a float32 copy to train. tell: a sentence for the user.
    studied: items to learn from, more of them than are asked one by one; None takes those of `knowledge`.
    """

    knowledge: Knowledge
    settings: Settings
    role: str
    name: str
    folders: Mapping[str, Path]
    load: Callable[[str], Subject]
    trainable: Callable[[str], Subject]
    tell: Callable[[str], object]
    control: str | None = None
    """The name of the quantised original that goes with a quantised model."""
    measured: dict[str, dict[str, Found]] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    studied: Knowledge | None = None

    @property
    def lessons(self) -> Knowledge:
        """Items to learn from."""
        return self.studied or self.knowledge

    def kept(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once in an audit and shared by all models, such as probes of the original."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def found(self, name: str, evaluator: str, metric: str, split: str) -> Measurement | None:
        """An earlier measurement over all attributes and layers, or None."""
        wanted = (metric, split, "", -1)
        rows = self.measured.get(name, {}).get(evaluator, [])
        return next((row for row in rows if isinstance(row, Measurement) and row.key == wanted), None)


@dataclass(frozen=True)
class Evaluator:
    """observe: numbers of one model. metrics: all it can give. roles: the models it is asked about.

    after: evaluators whose results of the same model it reads. cost: 'low', 'medium' or 'high', for people.
    """

    observe: Callable[[Subject, Context], Found]
    summary: str
    metrics: tuple[Metric, ...]
    roles: tuple[str, ...] = ROLES
    after: tuple[str, ...] = ()
    cost: str = "low"


EVALUATORS: Registry[Evaluator] = Registry("audit evaluator", "omniq.audit.evaluators")


def measurement(metric: Metric, split: str, values: Mapping[str, float], **more: Any) -> Measurement | Missing:
    """A number by item id -> Measurement; numbers that are not finite are left out and counted; none left: Missing."""
    kept = {item: float(value) for item, value in values.items() if np.isfinite(value)}
    if not kept:
        return Missing(metric.name, split, "no item gave a finite number")
    more["excluded"] = more.get("excluded", 0) + len(values) - len(kept)
    if "texts" in more and len(kept) < len(values):
        texts = dict(zip(values, more["texts"], strict=True))
        more["texts"] = tuple(texts[item] for item in kept)
    return Measurement(metric, split, tuple(kept), np.array(list(kept.values())), **{"chance": metric.chance, **more})
