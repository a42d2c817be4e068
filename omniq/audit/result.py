"""Result: what an audit found, as plain values; tables, pages and plots are made from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tested:
    """One model of an audit. name: unique in it, the role itself unless several have that role.

    label: for people. bits: of a weight, 16 where it is not quantised. control: name of the quantised original that a
    quantised model is compared with.
    """

    name: str
    role: str
    label: str
    folder: str
    method: str = ""
    scheme: str = ""
    bits: int = 16
    group: int | None = None
    sym: bool | None = None
    act_bits: int = 16
    control: str | None = None


@dataclass(frozen=True)
class Row:
    """One metric of one model on one split, attribute and layer, with everything needed to judge it.

    value with its 95 % interval [ci_lo, ci_hi] over n items, n_excluded left out. chance: what ignorance scores. gate:
    ok, floor, no_capability or collapsed. delta_*: this value less that of another model on the same items.
    retained_share: of the original's value at the same precision, above chance. recovered_share: (unl_q - unl_fp) /
    (orig_q - unl_fp). did: (unl_q - unl_fp) - (orig_q - orig_fp). *_lo, *_hi: 95 % intervals. p_value: McNemar for
    binary metrics, paired bootstrap otherwise, of the change against the model that the effect is measured from
    (unl_fp for unl_q, orig_fp for the others). items_up, items_down: how many items rose and fell against it.
    knowledge: +1 where more means more knowledge, -1 where less does.
    """

    run_id: str
    seed: int
    evaluator: str
    metric: str
    direction: int
    family: str
    split: str
    attribute: str
    layer: int | None
    role: str
    name: str
    model_id: str
    quant_method: str
    bits: int
    group: int | None
    sym: bool | None
    act_bits: int
    n: int
    n_excluded: int
    value: float
    ci_lo: float | None
    ci_hi: float | None
    chance: float | None
    gate: str
    delta_vs_unl_fp: float | None = None
    delta_vs_unl_fp_lo: float | None = None
    delta_vs_unl_fp_hi: float | None = None
    delta_vs_orig_fp: float | None = None
    delta_vs_orig_fp_lo: float | None = None
    delta_vs_orig_fp_hi: float | None = None
    delta_vs_orig_q: float | None = None
    delta_vs_orig_q_lo: float | None = None
    delta_vs_orig_q_hi: float | None = None
    delta_vs_never: float | None = None
    delta_vs_never_lo: float | None = None
    delta_vs_never_hi: float | None = None
    retained_share: float | None = None
    recovered_share: float | None = None
    recovered_share_lo: float | None = None
    recovered_share_hi: float | None = None
    did: float | None = None
    did_lo: float | None = None
    did_hi: float | None = None
    p_value: float | None = None
    items_up: int | None = None
    items_down: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A metric that could not be computed for a model, and why: N/A in every table."""

    name: str
    evaluator: str
    metric: str
    split: str
    reason: str


@dataclass(frozen=True)
class ItemValue:
    """The value of one item for one model, and what the model wrote, '' where it wrote nothing."""

    name: str
    evaluator: str
    metric: str
    split: str
    attribute: str
    layer: int | None
    item: str
    value: float
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """About one quantised model (name): what state the unlearned model was in, what quantisation did, and how.

    sentence: for a reader who has never seen the numbers. readings: what it means if the aim was to keep content from
    users, and if it was to delete data. drivers: the evaluators and metrics that decided it.
    """

    name: str
    state: str
    effect: tuple[str, ...]
    mechanism: str
    sentence: str
    readings: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """facts: settings, versions, seed, date, data name, counts: plain values by name. questions: by item id, question,
    answer, split, subject, relation. curves: whatever else plots need, such as relearning steps, by name."""

    run_id: str
    models: tuple[Tested, ...]
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...]
    items: tuple[ItemValue, ...]
    verdicts: tuple[Verdict, ...]
    questions: Mapping[str, Mapping[str, str]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
