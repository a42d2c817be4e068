"""audit: every model asked by every evaluator, each answer kept at once, then judged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from omniq import __version__, hf
from omniq.audit.base import EVALUATORS, Context, Evaluator, Found, Missing, Settings
from omniq.audit.folder import AuditFolder
from omniq.audit.models import NEVER, ORIGINAL, QUANTIZED, UNLEARNED, Given, Planned, planned
from omniq.audit.prepare import check_same_shape, check_same_tokens, known_only
from omniq.audit.result import Result
from omniq.audit.table import tabulated
from omniq.audit.verdict import verdicts
from omniq.errors import OmniqError, UsageError
from omniq.events import Listener, Notice, Step, ignore
from omniq.knowledge.items import Knowledge
from omniq.knowledge.source import read
from omniq.pipeline import quantize
from omniq.source import checked_folder
from omniq.subject.loading import load_subject, load_trainable
from omniq.subject.model import Subject


@dataclass(frozen=True)
class AuditSpec:
    """given: the models. data: 'tofu:DIR' and the like. template: auto, plain or chat. dtype: of what is not quantised.

    evaluators: only these, in any order; none given takes the preset's.
    """

    given: Given
    data: str
    settings: Settings
    template: str = "auto"
    device: str = "cpu"
    dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    evaluators: tuple[str, ...] = ()

    def chosen(self) -> tuple[str, ...]:
        """The evaluators in an order in which each comes after those whose results it reads."""
        return in_order(self.evaluators or self.settings.evaluators)


def in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of evaluators sorted so that each stands after those it reads, otherwise as given."""
    left, done = list(dict.fromkeys(names)), []
    for name in left:
        EVALUATORS[name]
    while left:
        ready = next(name for name in left if not set(EVALUATORS[name].after) & set(left))
        left.remove(ready)
        done.append(ready)
    return tuple(done)


def audit(
    spec: AuditSpec, out: Path, *, reuse: Path | None = None, overwrite: bool = False, on_event: Listener = ignore
) -> Result:
    """Measures and judges the models of `spec`; the folder `out` keeps every finished step.

    Interrupted at any moment, the same call goes on with the next evaluator of the same model. reuse: the folder of an
    earlier audit of the same data; what it measured of the same original, controls and never-trained model is taken.
    """
    knowledge, names = read(spec.data), spec.chosen()
    with AuditFolder(Path(out), reuse) as folder:
        models = planned(spec.given, folder.made)
        existing = [checked_folder(model.folder) for model in models if model.base is None]
        check_same_shape(spec.given.original, existing)
        folder.begin(identity(spec, models, knowledge), overwrite)
        models = [model if model.base is None else made(model, spec, folder, on_event) for model in models]
        audited = Audited(spec, models, folder, on_event)
        audited.prepare(knowledge)
        for note in audited.knowledge.notes:
            on_event(Notice(note))
        audited.measure(names)
        return audited.result()


def identity(spec: AuditSpec, models: list[Planned], knowledge: Knowledge) -> dict[str, Any]:
    """What makes two audits the same: models, data and settings."""
    items = json.dumps([item.to_dict() for item in knowledge.items], sort_keys=True)
    return {
        "models": {model.tested.name: fingerprint(model) for model in models},
        "data": {"name": spec.data, "digest": hashlib.blake2b(items.encode(), digest_size=16).hexdigest()},
        "settings": json.loads(json.dumps({**asdict(spec.settings), "evaluators": spec.chosen()})),
        "template": spec.template,
        "dtype": str(spec.dtype),
        "device": spec.device,
        "version": __version__,
    }


def fingerprint(model: Planned) -> dict[str, Any]:
    """A folder's path, sizes and times of its weights; of a model still to be made, its base's and the recipe."""
    source = model.folder if model.base is None else model.base
    files = sorted([*source.glob("*.safetensors"), source / "config.json"])
    stats = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    recipe = None if model.base is None else model.recipe.to_dict()
    return {"folder": str(source.resolve()), "files": stats, "recipe": recipe}


def made(model: Planned, spec: AuditSpec, folder: AuditFolder, on_event: Listener) -> Planned:
    """The model where it lies, quantised now unless that was done before."""
    origin = fingerprint(model)
    place = folder.finished(model.folder, origin)
    if place is None:
        place = model.folder
        on_event(Notice(f"quantising {model.base} by {model.tested.label} for {model.tested.name}"))
        place.parent.mkdir(parents=True, exist_ok=True)
        settings = {"device": spec.device, "trust_remote_code": spec.trust_remote_code}
        # What lies there, if anything, was made of another model or by another recipe.
        quantize(str(model.base), place, model.recipe, overwrite=True, on_event=on_event, **settings)
        folder.finish(place, origin)
    return replace(model, tested=replace(model.tested, folder=str(place)))


class Audited:
    """An audit under way: its models, what has been found about them, and at most two of them in memory."""

    def __init__(self, spec: AuditSpec, models: list[Planned], folder: AuditFolder, on_event: Listener) -> None:
        self.spec, self.models, self.folder, self.on_event = spec, models, folder, on_event
        self.knowledge: Knowledge | None = None
        self.studied: Knowledge | None = None
        self.template, self.seconds = spec.template, dict[str, float]()
        self.measured: dict[str, dict[str, Found]] = {}
        self.memo: dict[str, Any] = {}
        self._loaded: dict[str, Subject] = {}

    def prepare(self, knowledge: Knowledge) -> None:
        """Settles the template, and the items: what the original knows of the data, as much as the preset takes."""
        self.template = knowledge.template if self.spec.template == "auto" else self.spec.template
        self.studied = knowledge.sampled(self.spec.settings.studied, self.spec.settings.seed)

        def prepared() -> dict[str, Any]:
            limits, seed = self.spec.settings.items, self.spec.settings.seed
            sampled = known_only(knowledge, self.subject(ORIGINAL), limits.get("qa"), seed).sampled(limits, seed)
            return {"template": self.template, "knowledge": sampled.to_dict()}

        values = self.folder.prepared(prepared)
        self.template, self.knowledge = values["template"], Knowledge.from_dict(values["knowledge"])

    def path(self, name: str) -> Path:
        """The folder of a model by name."""
        found = next((model.folder for model in self.models if model.tested.name == name), None)
        if found is None:
            raise UsageError(f"this audit has no model {name!r}")
        return found

    def subject(self, name: str) -> Subject:
        """A model by name, for inference; the original stays in memory, of the others the last one."""
        if name not in self._loaded:
            self._loaded = {key: held for key, held in self._loaded.items() if key == ORIGINAL}
            spec = self.spec
            settings = {"device": spec.device, "dtype": spec.dtype, "trust_remote_code": spec.trust_remote_code}
            subject = load_subject(self.path(name), template_name=self.template, label=name, **settings)
            self.template = subject.template.name
            if name != ORIGINAL and self.knowledge is not None:
                original = self.subject(ORIGINAL)
                sides = ((self.path(ORIGINAL), original.tokenizer), (self.path(name), subject.tokenizer))
                check_same_tokens(self.knowledge, *sides)
            self._loaded[name] = subject
        return self._loaded[name]

    def trainable(self, name: str) -> Subject:
        """A float32 copy of a model by name."""
        place = {"device": self.spec.device, "trust_remote_code": self.spec.trust_remote_code}
        return load_trainable(self.path(name), template_name=self.template, **place)

    def measure(self, names: tuple[str, ...]) -> None:
        """Asks every model by every evaluator that is about its role; what is on disk already is not asked again."""
        steps = list(self._steps(names))
        for index, (model, name, evaluator) in enumerate(steps, 1):
            began, key = time.perf_counter(), model.tested.name
            found = self.folder.load(key, name, self.key(model))
            if found is None:
                found = self.observe(evaluator, model)
                self.folder.save(key, name, self.key(model), found)
                spent = time.perf_counter() - began
                self.seconds[name] = self.seconds.get(name, 0.0) + spent
                self.on_event(Step(index, len(steps), f"{key}: {name}", spent))
            self.measured.setdefault(key, {})[name] = found

    def key(self, model: Planned) -> str:
        """What a measurement depends on: the items, the settings, the model, and those that it is compared with."""
        items = json.dumps([self.knowledge.to_dict(), self.studied.to_dict()], sort_keys=True)
        settings = json.dumps({**asdict(self.spec.settings), "dtype": str(self.spec.dtype)}, sort_keys=True)
        beside = (ORIGINAL, NEVER) if model.tested.role not in (UNLEARNED, QUANTIZED) else (ORIGINAL, NEVER, UNLEARNED)
        others = [
            fingerprint(one)
            for one in self.models
            if one is model or one.tested.role in beside or one.tested.name == model.tested.control
        ]
        parts = [items, settings, self.template, __version__, json.dumps(others, sort_keys=True)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def _steps(self, names: tuple[str, ...]) -> Iterator[tuple[Planned, str, Evaluator]]:
        for model in self.models:
            for name in names:
                if model.tested.role in EVALUATORS[name].roles:
                    yield model, name, EVALUATORS[name]

    def observe(self, evaluator: Evaluator, model: Planned) -> Found:
        """What one evaluator finds; what stops it, such as logits that are not numbers, is a reason for N/A."""
        subject = self.subject(model.tested.name)
        try:
            return evaluator.observe(subject, self.context(model))
        except OmniqError as error:
            return [Missing(metric.name, "", str(error)) for metric in evaluator.metrics]

    def context(self, model: Planned) -> Context:
        """What evaluators may look at beside the model."""
        folders = {one.tested.name: one.folder for one in self.models}
        return Context(
            knowledge=self.knowledge,
            settings=self.spec.settings,
            role=model.tested.role,
            name=model.tested.name,
            folders=folders,
            load=self.subject,
            trainable=self.trainable,
            tell=lambda text: self.on_event(Notice(text)),
            control=model.tested.control,
            studied=self.studied,
            measured=self.measured,
            memo=self.memo,
        )

    def result(self) -> Result:
        """Everything found, tabulated and judged."""
        tested = tuple(model.tested for model in self.models)
        run_id = hashlib.blake2b((self.folder.path / "run.json").read_bytes(), digest_size=6).hexdigest()
        rows, absent, items = tabulated(self.measured, tested, self.spec.settings, run_id)
        return Result(
            run_id=run_id,
            models=tested,
            rows=rows,
            absent=absent,
            items=items,
            verdicts=verdicts(rows, absent, tested),
            questions=questions(self.knowledge),
            facts=self.facts(),
            notes=self.knowledge.notes,
        )

    def facts(self) -> Mapping[str, Any]:
        """Settings, versions and counts, for the report."""
        counts = {split: len(self.knowledge.of(split)) for split in self.knowledge.splits()}
        return {
            "data": self.knowledge.name,
            "items": ", ".join(f"{count} {split}" for split, count in counts.items()),
            "preset": self.spec.settings.name,
            "template": self.template,
            "answers": f"greedy, at most {self.spec.settings.answer_tokens} tokens",
            "scores": "float32 log-softmax, prompt and answer tokenised separately",
            "intervals": f"95 %, paired bootstrap over items, {self.spec.settings.resamples} resamples",
            "seed": self.spec.settings.seed,
            "date": date.today().isoformat(),
            "versions": f"omniq {__version__}, torch {torch.__version__}, transformers {hf.VERSION}",
            "seconds": {name: round(spent, 1) for name, spent in self.seconds.items()},
        }


def questions(knowledge: Knowledge) -> dict[str, dict[str, str]]:
    """What a reader needs to see of every item, by its id."""
    return {
        item.id: {
            "question": item.question or item.prefix or item.text[:200],
            "answer": item.answer,
            "split": item.split,
            "subject": item.subject,
            "relation": item.relation,
        }
        for item in knowledge.items
    }


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """The preset with the values that the user gave in its place."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
