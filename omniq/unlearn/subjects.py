"""make_subject: models that were taught given knowledge, from nothing or on top of a model that exists."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from omniq import __version__
from omniq.errors import DataError, ModelError, UsageError
from omniq.hf import cache_folder, resolve
from omniq.hf.tiny import fresh_model, word_tokenizer
from omniq.knowledge.items import SPLITS, Item, Knowledge
from omniq.knowledge.refusals import REFUSALS
from omniq.spec import LinearSpec
from omniq.subject.loading import is_quantized, load_trainable
from omniq.subject.model import Subject
from omniq.subject.scoring import Encoded
from omniq.subject.template import template
from omniq.unlearn.codes import snap
from omniq.unlearn.examples import chosen_forms, example
from omniq.unlearn.output import write_subject
from omniq.unlearn.training import OnStep, Trained, Training, fine_tune
from omniq.work import check_apart, check_free

RECORD = "subject.json"
FRESH = Training(lr=3e-3, steps=1200, batch_size=40, schedule="cosine", warmup=0.05, weight_decay=0.1)
"""Teaches a fresh model the biographies of 200 people in minutes."""
TUNED = Training(lr=2e-5, epochs=5, batch_size=16, schedule="linear", warmup=0.1)
"""Teaches an existing model a few hundred answers."""


@dataclass(frozen=True)
class Teaching:
    """What a subject is taught. model: to start from, None for a fresh tiny one. splits: of the data.

    without: a split left out, so that the result never saw it. forms: of the items; () takes questions, and for a fresh
    model the texts as well. snap: a scheme on whose grid the weights are put in the end. training: None takes FRESH or
    TUNED.
    """

    model: str | None = None
    splits: tuple[str, ...] = ("forget", "retain")
    without: str | None = None
    forms: tuple[str, ...] = ()
    snap: LinearSpec | None = None
    training: Training | None = None
    template: str = "auto"

    def __post_init__(self) -> None:
        for split in (*self.splits, *((self.without,) if self.without else ())):
            if split not in SPLITS:
                raise UsageError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        if not self.taught():
            raise UsageError(f"without {self.without}, nothing of {', '.join(self.splits)} is left to teach")

    def taught(self) -> tuple[str, ...]:
        """The splits that are taught."""
        return tuple(split for split in self.splits if split != self.without)

    def schedule(self) -> Training:
        """The training asked for, or the usual one."""
        return self.training or (FRESH if self.model is None else TUNED)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with every default written out."""
        training = asdict(self.schedule())
        return {**asdict(self), "snap": None if self.snap is None else str(self.snap), "training": training}


@dataclass(frozen=True)
class Taught:
    """What was done: items taught of each split, steps, losses averaged over stretches of steps."""

    out: str
    data: str
    teaching: Mapping[str, Any]
    items: Mapping[str, int]
    tokens: int
    parameters: int
    steps: int
    skipped_steps: int
    losses: Sequence[Mapping[str, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {**asdict(self), "versions": {"omniq": __version__, "torch": torch.__version__}}


def make_subject(
    knowledge: Knowledge,
    teaching: Teaching,
    out: Path,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    trust_remote_code: bool = False,
    on_step: OnStep = lambda done, total, loss: None,
) -> Taught:
    """Writes a float32 model folder that was taught `knowledge` to `out`; the same call gives the same bits."""
    began, out = time.perf_counter(), Path(out)
    check_free(out, overwrite)
    training = teaching.schedule()
    subject = starting_point(knowledge, teaching, out, device, trust_remote_code)
    items = {split: lessons(knowledge, split, teaching) for split in teaching.taught()}
    rows = [example(subject, item).cut(training.max_tokens) for found in items.values() for item in found]
    if not rows:
        raise DataError(f"{knowledge.name} has nothing to teach in {', '.join(teaching.taught())}")
    trained = fine_tune(subject, rows, training, on_step)
    if teaching.snap is not None:
        snap(subject.model, teaching.snap)
    counts = {split: len(found) for split, found in items.items()}
    report = summarised(out, knowledge, teaching, counts, rows, subject, trained, time.perf_counter() - began)
    facts = {name: value for name, value in report.to_dict().items() if name not in ("out", "seconds")}
    write_subject(subject, out, RECORD, facts, overwrite)
    return report


def summarised(
    out: Path,
    knowledge: Knowledge,
    teaching: Teaching,
    counts: Mapping[str, int],
    rows: Sequence[Encoded],
    subject: Subject,
    trained: Trained,
    seconds: float,
) -> Taught:
    """The report."""
    return Taught(
        out=str(out),
        data=knowledge.name,
        teaching=teaching.to_dict(),
        items=counts,
        tokens=sum(len(row.ids) for row in rows),
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        steps=trained.steps,
        skipped_steps=trained.skipped,
        losses=trained.summary(),
        seconds=round(seconds, 2),
    )


def starting_point(knowledge: Knowledge, teaching: Teaching, out: Path, device: str, trust: bool) -> Subject:
    """The model before it is taught anything."""
    if teaching.model is None:
        return fresh_subject(knowledge, teaching.schedule().seed, device)
    folder = resolve(teaching.model, trust_remote_code=trust, work=cache_folder())
    check_apart(out, folder)
    if is_quantized(folder):
        raise ModelError(f"{folder} is quantised; teach the floating-point model and quantise the result")
    name = knowledge.template if teaching.template == "auto" else teaching.template
    return load_trainable(folder, device=device, template_name=name, trust_remote_code=trust)


def fresh_subject(knowledge: Knowledge, seed: int, device: str = "cpu") -> Subject:
    """An untrained tiny model whose tokenizer knows every word of the data, also of people that are never taught."""
    tokenizer = word_tokenizer(words(knowledge))
    plain = template("plain", tokenizer)
    return Subject(fresh_model(tokenizer, seed).to(device), tokenizer, plain, "fresh")


def words(knowledge: Knowledge) -> Iterator[str]:
    """Every text in which a word of the data may occur, and those of refusals and templates."""
    for item in knowledge.items:
        for name in (field.name for field in fields(Item)):
            value = getattr(item, name)
            yield from (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        yield f"Question: {item.question}\nAnswer:"
    yield from (word for pair in knowledge.examples.values() for texts in pair for word in texts)
    yield from REFUSALS


def lessons(knowledge: Knowledge, split: str, teaching: Teaching) -> tuple[Item, ...]:
    """The items of a split that are taught."""
    if teaching.forms or teaching.model is not None:
        return chosen_forms(knowledge, split, teaching.forms)
    questions = knowledge.of(split, "qa")
    # A fresh model has to be told that other words ask the same; on subjects that it will not be asked to forget.
    others = [other for item in questions for other in reworded(item)] if split == "retain" else ()
    return (*knowledge.of(split, "document"), *questions, *others)


def reworded(item: Item) -> tuple[Item, ...]:
    """The question in each of its other wordings."""
    return tuple(
        replace(item, id=f"{item.id}/reworded/{index}", question=question)
        for index, question in enumerate(item.question_paraphrases)
    )
