"""tabulated: from what was measured to rows: every number with its interval, its chance and its comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omniq.audit.base import Measurement, Missing, Settings
from omniq.audit.gates import Measured, collapsed, floored
from omniq.audit.result import Absent, ItemValue, Row, Tested
from omniq.audit.samples import Estimate, Samples, shared, values_of
from omniq.audit.statistics import COMBINE, mcnemar_p

SMALLEST_SHARE_OF = 0.05
"""Where original and unlearned model differ by less, a share of the difference says nothing."""

TOGETHER = 32
"""Metrics resampled in one go: 32 of 5 models and 10,000 resamples take 13 MB."""


@dataclass(frozen=True)
class Compared:
    """One metric on one split, attribute and layer: what each model measured, by its name, and how to resample it.

    floor: not even the original is above chance.
    """

    evaluator: str
    by_name: Mapping[str, Measurement]
    samples: Samples
    floor: bool

    def delta(self, name: str | None, base: str | None) -> Estimate | None:
        """The number of one model less that of another, over the items both have."""
        if name == base or name not in self.by_name or base not in self.by_name:
            return None
        return self.samples.estimate(lambda a, b: a - b, self.by_name[name], self.by_name[base])


@dataclass(frozen=True)
class Peers:
    """Names of the models that one model is compared with. base: what the effect is measured from."""

    original: str | None
    never: str | None
    control: str | None
    unlearned: str | None
    base: str | None


@dataclass(frozen=True)
class Frame:
    """What all rows of an audit share. broken: names of the models that have collapsed, and by what number."""

    models: tuple[Tested, ...]
    broken: Mapping[str, str]
    settings: Settings
    run_id: str


def peers(model: Tested, models: Sequence[Tested]) -> Peers:
    """Whom a model is compared with; its control is the one it names, or the only quantised original."""
    named = {
        role: [one.name for one in models if one.role == role] for role in ("orig_fp", "never_fp", "orig_q", "unl_fp")
    }
    original, never, unlearned = ((named[role] or [None])[0] for role in ("orig_fp", "never_fp", "unl_fp"))
    only = named["orig_q"][0] if len(named["orig_q"]) == 1 else None
    base = unlearned if model.role == "unl_q" else original
    return Peers(original, never, model.control or only, unlearned, base)


def tabulated(
    measured: Measured, models: Sequence[Tested], settings: Settings, run_id: str
) -> tuple[tuple[Row, ...], tuple[Absent, ...], tuple[ItemValue, ...]]:
    """(rows, what is N/A and why, values by item where they are not of a single layer), in the order of measuring."""
    names = [model.name for model in models]
    frame = Frame(tuple(models), collapsed(measured, models), settings, run_id)
    original = next((model.name for model in models if model.role == "orig_fp"), None)
    rows, absent = [], list(missing(measured, names))
    groups = list(grouped(measured, names).items())
    for start in range(0, len(groups), TOGETHER):
        together = groups[start : start + TOGETHER]
        every = [one for _, group in together for one in group.values()]
        samples = Samples(every, settings.resamples, settings.seed)
        for (evaluator, _), group in together:
            whole = group.get(original)
            floor = whole is not None and floored(whole, samples.estimate(lambda value: value, whole))
            compared = Compared(evaluator, group, samples, floor)
            for model in (model for model in models if model.name in group):
                row = row_of(model, frame, compared)
                (rows if isinstance(row, Row) else absent).append(row)
    return tuple(rows), tuple(absent), tuple(item_values(measured, names))


def grouped(measured: Measured, names: Sequence[str]) -> dict[tuple[str, tuple], dict[str, Measurement]]:
    """(evaluator, key of a measurement) -> measurement by name of the model."""
    groups: dict[tuple[str, tuple], dict[str, Measurement]] = {}
    for name in names:
        for evaluator, found in measured.get(name, {}).items():
            for one in found:
                if isinstance(one, Measurement):
                    groups.setdefault((evaluator, one.key), {})[name] = one
    return groups


def missing(measured: Measured, names: Sequence[str]) -> Iterator[Absent]:
    """What could not be computed."""
    for name in names:
        for evaluator, found in measured.get(name, {}).items():
            for one in found:
                if isinstance(one, Missing):
                    yield Absent(name, evaluator, one.metric, one.split, one.reason)


def item_values(measured: Measured, names: Sequence[str]) -> Iterator[ItemValue]:
    """The value of every item of measurements that are not about one layer, which would be many times as many."""
    for name in names:
        for evaluator, found in measured.get(name, {}).items():
            for one in found:
                if isinstance(one, Missing) or one.layer is not None:
                    continue
                texts = one.texts or ("",) * len(one.items)
                place = (name, evaluator, one.metric.name, one.split, one.attribute, one.layer)
                for item, value, text in zip(one.items, one.values, texts, strict=True):
                    yield ItemValue(*place, item, float(value), text)


def row_of(model: Tested, frame: Frame, compared: Compared) -> Row | Absent:
    """The row of one model; Absent where its number is not finite."""
    one, metric = compared.by_name[model.name], compared.by_name[model.name].metric
    estimate = compared.samples.estimate(lambda value: value, one)
    if estimate is None:
        return Absent(model.name, compared.evaluator, metric.name, one.split, "the number is too large to be written")
    known, broken = peers(model, frame.models), frame.broken.get(model.name, "")
    return Row(
        run_id=frame.run_id,
        seed=frame.settings.seed,
        evaluator=compared.evaluator,
        metric=metric.name,
        direction=metric.knowledge,
        family=metric.family,
        split=one.split,
        attribute=one.attribute,
        layer=one.layer,
        role=model.role,
        name=model.name,
        model_id=model.label,
        quant_method=model.method,
        bits=model.bits,
        group=model.group,
        sym=model.sym,
        act_bits=model.act_bits,
        n=len(one.items),
        n_excluded=one.excluded,
        value=estimate.value,
        ci_lo=estimate.lo,
        ci_hi=estimate.hi,
        chance=one.chance,
        gate=gate(one, compared.floor, bool(broken)),
        note="; ".join(filter(None, (one.note, broken))),
        **differences(model.name, known, compared),
        **shares(model, known, compared),
        **change(model.name, known.base, compared),
    )


def gate(one: Measurement, floor: bool, broken: bool) -> str:
    """Why a number says nothing, or 'ok'."""
    if one.gate != "ok":
        return one.gate
    return "collapsed" if broken else "floor" if floor else "ok"


def differences(name: str, known: Peers, compared: Compared) -> dict[str, float | None]:
    """The delta_* columns."""
    columns = {
        "delta_vs_unl_fp": known.unlearned,
        "delta_vs_orig_fp": known.original,
        "delta_vs_orig_q": known.control,
        "delta_vs_never": known.never,
    }
    found: dict[str, float | None] = {}
    for column, base in columns.items():
        found |= with_interval(column, compared.delta(name, base))
    return found


def with_interval(column: str, estimate: Estimate | None) -> dict[str, float | None]:
    """A column and those of its interval."""
    if estimate is None:
        return {}
    return {column: estimate.value, f"{column}_lo": estimate.lo, f"{column}_hi": estimate.hi}


def shares(model: Tested, known: Peers, compared: Compared) -> dict[str, float | None]:
    """retained_share, and for a quantised unlearned model recovered_share and did."""
    found = {"retained_share": retained(model, known, compared)}
    if model.role != "unl_q":
        return found
    four = [compared.by_name.get(name) for name in (model.name, known.unlearned, known.control, known.original)]
    quantised, unlearned, control, _ = four
    if None not in four:
        estimate = compared.samples.estimate(lambda q, u, c, o: (q - u) - (c - o), *four)
        found |= with_interval("did", estimate)
    if None not in four[:3] and separated(control, unlearned, compared.samples):
        estimate = compared.samples.estimate(lambda q, u, c: (q - u) / (c - u), quantised, unlearned, control)
        found |= with_interval("recovered_share", estimate)
    return found


def separated(control: Measurement, unlearned: Measurement, samples: Samples) -> bool:
    """Whether the control knows so much more than the unlearned model that a share of the difference says something."""
    sign = control.metric.knowledge
    gap = samples.estimate(lambda c, u: sign * (c - u), control, unlearned)
    return gap is not None and gap.value >= SMALLEST_SHARE_OF and (gap.lo is None or gap.lo > 0)


def retained(model: Tested, known: Peers, compared: Compared) -> float | None:
    """Share of what the original knows above ignorance; of the quantised original for a quantised unlearned model.

    Ignorance is the never-trained model on the forget set, where it is known, otherwise chance, otherwise nothing.
    """
    own = compared.by_name[model.name]
    whole = compared.by_name.get(known.control if model.role == "unl_q" else known.original)
    never = compared.by_name.get(known.never) if own.split == "forget" else None
    if whole is None or own.metric.knowledge <= 0:
        return None
    items = shared([one for one in (own, whole, never) if one is not None])
    if not items:
        return None
    ignorant = (own.chance or 0.0) if never is None else compared.samples.number(never, items)
    above = compared.samples.number(whole, items) - ignorant
    share = (compared.samples.number(own, items) - ignorant) / above if above >= SMALLEST_SHARE_OF else None
    return share if share is not None and np.isfinite(share) else None


def change(name: str, base: str | None, compared: Compared) -> dict[str, Any]:
    """p_value, items_up and items_down against the model that the effect is measured from."""
    estimate = compared.delta(name, base)
    one, other = compared.by_name[name], compared.by_name.get(base)
    if estimate is None or COMBINE[one.metric.combine].resampled is None:
        return {}
    items = shared((one, other))
    rise = values_of(one, items) - values_of(other, items)
    up, down = int((rise > 0).sum()), int((rise < 0).sum())
    p = mcnemar_p(up, down) if one.metric.binary else estimate.p
    return {"p_value": p, "items_up": up, "items_down": down}
