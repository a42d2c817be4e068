"""probe: what a linear classifier of a model's hidden states tells about people, whether or not the model says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from omniq.audit.base import EVALUATORS, LATENT, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.basis import foreign
from omniq.audit.metrics.layers import spread
from omniq.audit.metrics.mdl import compressions
from omniq.audit.metrics.readings import message, readings, retained, sent, transferred
from omniq.audit.models import ORIGINAL
from omniq.audit.probe_tasks import Study, Task, at_name, at_question, features, in_document
from omniq.subject.model import Subject

GATE = 0.15
"""What the original's accuracy must have over the control's for its probe to say anything about other models."""

FEWEST_SENT = 8
"""Labels that a split must have for their code length to be looked at."""

R2F = Metric("probe_r2f", "probe trained on retained people, asked about forgotten ones", family=LATENT, binary=True)
F2F = Metric(
    "probe_f2f", "probe that also learned from half of the forgotten people, asked about the others",
    family=LATENT, binary=True,
)  # fmt: skip
TRANSFER = Metric(
    "probe_transfer", "probe trained on the original's states, asked about these", family=LATENT, binary=True
)
HOLDOUT = Metric("probe_holdout", "probe asked about people never taught", knowledge=0, family=LATENT, binary=True)
CONTROL = Metric(
    "probe_control", "probe trained on labels dealt out at random", knowledge=0, family=LATENT, binary=True
)
SELECTIVITY = Metric(
    "selectivity", "probe_r2f less probe_control or probe_holdout, whichever is higher", family=LATENT, chance=0.0
)
MDL = Metric(
    "probe_mdl", "compression of the answers by an online code that reads the states", family=LATENT,
    combine="harmonic", chance=1.0,
)  # fmt: skip
READINGS = {
    "r2f": (R2F, "forget"), "f2f": (F2F, "forget"), "transfer": (TRANSFER, "forget"),
    "control": (CONTROL, "forget"), "holdout": (HOLDOUT, "holdout"),
}  # fmt: skip


def deep(mode: str, where: str) -> dict[str, tuple[Metric, str]]:
    """The readings of a mode that only the full preset has, as (metric, split) by name."""
    words = {
        "r2f": f"{where}: probe trained on retained people, asked about forgotten ones",
        "control": f"{where}: probe trained on labels dealt out at random",
        "holdout": f"{where}: probe asked about people never taught",
    }
    return {
        name: (Metric(f"{mode}_{name}", text, knowledge=int(name == "r2f"), family=LATENT), READINGS[name][1])
        for name, text in words.items()
    }


QPROBE = deep("qprobe", "after the name alone")
PPROBE = deep("pprobe", "in a text, before the value of an attribute")
MAIN = (R2F, F2F, TRANSFER, CONTROL, HOLDOUT, SELECTIVITY, MDL)
METRICS = (*MAIN, *(metric for mode in (QPROBE, PPROBE) for metric, _ in mode.values()))

Read = dict[str, list[ndarray]]
"""Name of a reading -> for each task, the value of every example of its split."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What the original shows: its features (P, L, D), the index of the layer to judge others by, and if it can at all.

    That layer is where a probe of some retained people reads the others best; the forgotten ones have no say in it.
    """

    features: ndarray
    best: int
    able: bool


def observe(subject: Subject, context: Context) -> Found:
    """The five readings by layer and attribute, their summary, and in the full preset the two other positions."""
    seed, knowledge = context.settings.seed, context.lessons
    study = at_question(knowledge, subject, seed)
    if not study.tasks:
        return [Missing(metric.name, "", why_none(study, knowledge.name)) for metric in MAIN]
    found = at_questions(subject, context, study)
    if context.settings.name == "full":
        found += gated(subject, context, QPROBE, "Q-probing", lambda one: at_name(knowledge, seed))
        found += gated(subject, context, PPROBE, "P-probing", lambda one: in_document(knowledge, one, seed))
    return found


def why_none(study: Study, name: str) -> str:
    """Why no attribute can be told: the reasons, each once."""
    return "; ".join(dict.fromkeys(study.left_out.values())) or f"{name} has no questions about retained people"


def origin(context: Context, mode: str, subject: Subject, study: Study, layers: Sequence[int]) -> Origin:
    """The Origin of a mode, looked at once in an audit."""

    def looked_at() -> Origin:
        original = subject if context.name == ORIGINAL else context.load(ORIGINAL)
        whole = features(original, study, layers)
        right = [
            np.concatenate([retained(whole[task.rows, at], task.own) for task in study.tasks])
            for at in range(len(layers))
        ]
        best = int(np.argmax([one.mean() for one in right]))
        read = read_all(whole[:, best], study.tasks)
        able = np.concatenate(read["r2f"]).mean() - np.concatenate(read["control"]).mean() >= GATE
        return Origin(whole, best, bool(able))

    return context.kept(f"probe/{mode}", looked_at)


def read_all(states: ndarray, tasks: Sequence[Task]) -> Read:
    """states (P, D) of one layer -> the readings of every task; those that one of them lacks are left out of it."""
    found: Read = {}
    for task in tasks:
        for name, values in readings(states[task.rows], task.own).items():
            found.setdefault(name, []).append(values)
    return {name: values for name, values in found.items() if len(values) == len(tasks)}


def at_questions(subject: Subject, context: Context, study: Study) -> Found:
    """All rows of the default position."""
    layers = spread(len(subject.blocks), context.settings.probe_layers)
    whole = origin(context, "question", subject, study, layers)
    reason = ""
    if context.name != ORIGINAL:
        reason = foreign(subject, context.load(ORIGINAL), [text for text, _ in study.texts])
    own = whole.features if context.name == ORIGINAL else features(subject, study, layers)
    gate, found = "ok" if whole.able else "no_capability", list[Measurement | Missing]()
    more = {"gate": gate, "note": study.note}
    for at, layer in enumerate(layers):
        read = read_all(own[:, at], study.tasks)
        if not reason:
            places = [(own[task.rows, at], whole.features[task.rows, at], task.own) for task in study.tasks]
            read["transfer"] = [transferred(*place) for place in places]
        found += by_attribute(read, study.tasks, layer, more)
        found += [pooled(name, read, study.tasks, layer, more) for name in READINGS if has(name, read)]
        if at == whole.best:
            summary = {**more, "note": "; ".join(filter(None, (f"layer {layer}, chosen on the original", study.note)))}
            found += [pooled(name, read, study.tasks, None, summary) for name in READINGS if has(name, read)]
            found += absent(read, context, reason)
            found += [selectivity(read, study.tasks, summary), *code_lengths(own[:, at], study.tasks, context, summary)]
    return found


def has(name: str, read: Read) -> bool:
    """Whether there is any value of a reading."""
    return any(len(values) for values in read.get(name, []))


def absent(read: Read, context: Context, reason: str) -> list[Missing]:
    """Why readings are not there."""
    why = {
        "transfer": reason,
        "f2f": "fewer than four forgotten people have a value that retained people have",
        "holdout": f"{context.knowledge.name} has no holdout people whose values retained people have",
    }
    return [
        Missing(READINGS[name][0].name, READINGS[name][1], text) for name, text in why.items() if not has(name, read)
    ]


def by_attribute(read: Read, tasks: Sequence[Task], layer: int, more: Mapping[str, str]) -> list[Measurement]:
    """The readings of every attribute at one layer, where there are several."""
    found = []
    for place, task in enumerate(tasks if len(tasks) > 1 else ()):
        for name, (metric, split) in READINGS.items():
            if name in read and len(read[name][place]):
                values, items, chance = read[name][place], items_of(task, split), task.own.majority(split)
                found.append(Measurement(metric, split, items, values, task.attribute, layer, chance=chance, **more))
    return found


def items_of(task: Task, split: str) -> tuple[str, ...]:
    """What the values of a split of a task are about."""
    return tuple(task.items[index] for index in task.own.at(split))


def chance_of(tasks: Sequence[Task], split: str) -> float:
    """What guessing the commonest class scores on a split of all tasks together."""
    sizes = [len(task.own.at(split)) for task in tasks]
    return float(
        sum(size * task.own.majority(split) for size, task in zip(sizes, tasks, strict=True) if size) / sum(sizes)
    )


def pooled(name: str, read: Read, tasks: Sequence[Task], layer: int | None, more: Mapping[str, str]) -> Measurement:
    """One reading of all attributes together."""
    metric, split = READINGS[name]
    items = tuple(item for task in tasks for item in items_of(task, split))
    return Measurement(
        metric, split, items, np.concatenate(read[name]), layer=layer, chance=chance_of(tasks, split), **more
    )


def selectivity(read: Read, tasks: Sequence[Task], more: Mapping[str, str]) -> Measurement:
    """Item by item less the control; where holdout people are read better than that, less their accuracy."""
    right, control = np.concatenate(read["r2f"]), np.concatenate(read["control"])
    never = float(np.concatenate(read["holdout"]).mean()) if has("holdout", read) else 0.0
    items = tuple(item for task in tasks for item in items_of(task, "forget"))
    floor = control if control.mean() >= never else never
    return Measurement(SELECTIVITY, "forget", items, right - floor, chance=SELECTIVITY.chance, **more)


def code_lengths(states: ndarray, tasks: Sequence[Task], context: Context, more: Mapping[str, str]) -> Found:
    """How far the answers of each split can be compressed, of equally many people in all of them."""
    messages: dict[str, list[tuple[ndarray, int]]] = {}
    items: dict[str, list[str]] = {}
    splits = [split for split in ("retain", "forget", "holdout") if context.lessons.of(split, "qa")]
    for task in tasks:
        count = min(len(task.own.at(split)) for split in splits)
        for split, rows in sent(task.own, count).items() if count >= FEWEST_SENT else ():
            messages.setdefault(split, []).append(message(states[task.rows], task.own, rows))
            items.setdefault(split, []).extend(task.items[row] for row in rows)
    reason = f"fewer than {FEWEST_SENT} people of a split have a value that retained people have"
    values = {split: np.concatenate(compressions(sent_of)) for split, sent_of in messages.items()}
    return [
        Measurement(MDL, split, tuple(items[split]), values[split], chance=MDL.chance, **more)
        if split in values
        else Missing(MDL.name, split, reason)
        for split in splits
    ]


def gated(
    subject: Subject,
    context: Context,
    mode: Mapping[str, tuple[Metric, str]],
    title: str,
    made: Callable[[Subject], Study],
) -> Found:
    """The readings of another position at the layer chosen on the original; N/A unless the original's probe works."""
    metrics = tuple(metric for metric, _ in mode.values())
    study = made(subject)
    if not study.tasks:
        return [Missing(metric.name, "", why_none(study, context.knowledge.name)) for metric in metrics]
    layers = spread(len(subject.blocks), context.settings.probe_layers)
    whole = origin(context, title, subject, study, layers)
    if not whole.able:
        reason = f"{title}: on the original the probe is not {GATE:g} better than with labels dealt out at random"
        return [Missing(metric.name, "", reason) for metric in metrics]
    own = whole.features if context.name == ORIGINAL else features(subject, study, layers)
    read, layer, found = read_all(own[:, whole.best], study.tasks), layers[whole.best], list[Measurement | Missing]()
    for name, (metric, split) in mode.items():
        if not has(name, read):
            found.append(Missing(metric.name, split, f"{context.knowledge.name} has no {split} people to ask about"))
            continue
        more = {"note": "; ".join(filter(None, (f"layer {layer}, chosen on the original", study.note)))}
        found.append(averaged(metric, split, read[name], study.tasks, chance_of(study.tasks, split), more))
        for place, task in enumerate(study.tasks if len(study.tasks) > 1 else ()):
            if len(read[name][place]):
                chance = task.own.majority(split)
                more = {"attribute": task.attribute, "layer": layer}
                found.append(averaged(metric, split, [read[name][place]], [task], chance, more))
    return found


def averaged(
    metric: Metric,
    split: str,
    values: Sequence[ndarray],
    tasks: Sequence[Task],
    chance: float,
    more: Mapping[str, object],
) -> Measurement:
    """Accuracies of whatever the examples are counted as: a text at six places and for six attributes is one item."""
    found: dict[str, list[float]] = {}
    for task, own in zip(tasks, values, strict=True):
        for item, value in zip(items_of(task, split), own, strict=True):
            found.setdefault(item, []).append(float(value))
    means = np.array([np.mean(one) for one in found.values()])
    return Measurement(metric, split, tuple(found), means, chance=chance, **more)


EVALUATORS.add("probe")(
    Evaluator(observe, "what a linear probe reads out of the hidden states, by layer and attribute", METRICS)
)
