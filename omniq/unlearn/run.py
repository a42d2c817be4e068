"""unlearn: a model folder that knows the forget set -> one that was made to forget it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omniq import __version__
from omniq.errors import ModelError
from omniq.header import json_object
from omniq.hf import cache_folder, resolve
from omniq.knowledge.items import Knowledge
from omniq.recipe import check_keys, check_types
from omniq.source import config_values
from omniq.spec import LinearSpec
from omniq.subject.loading import is_quantized, load_trainable
from omniq.subject.model import Subject
from omniq.unlearn.codes import SHARE, KeptCodes
from omniq.unlearn.material import Material
from omniq.unlearn.method import UNLEARNERS, Part, Reference, Unlearner
from omniq.unlearn.output import write_subject
from omniq.unlearn.training import OnStep, Terms, Trained, Training, minimise
from omniq.work import check_apart, check_free

RECORD = "unlearning.json"


@dataclass(frozen=True)
class Unlearning:
    """What is done to a model. training: None takes the method's usual rate and epochs. forms: of the items, () for
    questions, or texts where there are none. keep_codes: a scheme under which the rounded model does not change.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None
    forms: tuple[str, ...] = ()
    keep_codes: LinearSpec | None = None
    share: float = SHARE
    template: str = "auto"

    def unlearner(self) -> Unlearner:
        """The method with its options; one that it does not have, or of another type, is a UsageError."""
        kind = UNLEARNERS[self.method]
        check_keys(self.options, kind, f"method {self.method!r}")
        check_types(self.options, kind, f"method {self.method!r}: option ")
        return kind(**self.options)

    def schedule(self) -> Training:
        """The training asked for, or the method's usual one."""
        kind = UNLEARNERS[self.method]
        return self.training or Training(lr=kind.lr, epochs=kind.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with every default written out."""
        return {
            **asdict(self),
            "options": asdict(self.unlearner()),
            "training": asdict(self.schedule()),
            "keep_codes": None if self.keep_codes is None else str(self.keep_codes),
        }


@dataclass(frozen=True)
class Unlearned:
    """What was done: items used of each split, steps, losses averaged over stretches of steps, the largest change of a
    weight, and where it lies."""

    out: str
    base_model: str
    data: str
    unlearning: Mapping[str, Any]
    forget: int
    retain: int
    steps: int
    skipped_steps: int
    losses: Sequence[Mapping[str, float]]
    largest_change: float
    largest_change_in: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {**asdict(self), "versions": {"omniq": __version__, "torch": torch.__version__}}


def unlearn(
    model: str | Path,
    knowledge: Knowledge,
    unlearning: Unlearning,
    out: Path,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    trust_remote_code: bool = False,
    tell: Callable[[str], object] = lambda sentence: None,
    on_step: OnStep = lambda done, total, loss: None,
) -> Unlearned:
    """Writes a float32 copy of `model` (folder or hub id) that was made to forget `knowledge` to the folder `out`.

    The same call on the same machine gives the same bits. tell: given sentences the user should read.
    """
    began, out = time.perf_counter(), Path(out)
    check_free(out, overwrite)
    folder = resolve(str(model), trust_remote_code=trust_remote_code, work=cache_folder())
    check_apart(out, folder)
    check_original(folder, unlearning, tell)
    unlearning.unlearner()
    training = unlearning.schedule()
    subject = load_trainable(
        folder, device=device, template_name=template_of(unlearning, knowledge), trust_remote_code=trust_remote_code
    )
    trained, reference, material = forgetting(subject, knowledge, unlearning, training, on_step)
    where, change = largest_change(subject.model, reference.subject.model)
    report = Unlearned(
        out=str(out),
        base_model=folder.name,
        data=knowledge.name,
        unlearning=unlearning.to_dict(),
        forget=len(material.forget),
        retain=len(material.retain),
        steps=trained.steps,
        skipped_steps=trained.skipped,
        losses=trained.summary(),
        largest_change=change,
        largest_change_in=where,
        seconds=round(time.perf_counter() - began, 2),
    )
    write_subject(subject, out, RECORD, record(report), overwrite)
    return report


def record(report: Unlearned) -> dict[str, Any]:
    """What the folder keeps of the report: nothing that differs between two runs of the same command."""
    return {name: value for name, value in report.to_dict().items() if name not in ("out", "seconds")}


def template_of(unlearning: Unlearning, knowledge: Knowledge) -> str:
    """The template asked for, or that of the data."""
    return knowledge.template if unlearning.template == "auto" else unlearning.template


def check_original(folder: Path, unlearning: Unlearning, tell: Callable[[str], object]) -> None:
    """Refuses what cannot be unlearned, and tells what the dtype of a model means for an audit."""
    if is_quantized(folder):
        raise ModelError(f"{folder} is quantised; unlearn the floating-point model and quantise the result")
    stored = stored_dtype(folder)
    if stored == "float32":
        return
    if unlearning.keep_codes is not None:
        raise ModelError(
            f"{folder} is stored in {stored}, where codes cannot be kept exactly; make a float32 copy on the grid "
            f"first: omniq audit make-subject --model {folder} --steps 0 --snap {unlearning.keep_codes}"
        )
    tell(
        f"{folder.name} is stored in {stored} and the result in float32, so that small changes survive. A quantiser "
        "rounds scales to the stored type: audit against a float32 copy (omniq audit make-subject --steps 0) to see "
        "the effect of unlearning alone."
    )


def stored_dtype(folder: Path) -> str:
    """What the folder's config says its weights are stored in."""
    values = config_values(folder)
    return str(values.get("dtype") or values.get("torch_dtype") or "float32")


def forgetting(
    subject: Subject, knowledge: Knowledge, unlearning: Unlearning, training: Training, on_step: OnStep
) -> tuple[Trained, Reference, Material]:
    """Trains a subject in place; what happened, the model as it was, and the items used."""
    method = unlearning.unlearner()
    material = Material(subject, knowledge, method, unlearning.method, training, unlearning.forms)
    parameters = method.trained(subject)
    kept = None
    if unlearning.keep_codes is not None:
        kept = KeptCodes(subject.model, unlearning.keep_codes, unlearning.share)
        parameters = kept.among(parameters)
    reference = Reference(subject)
    subject.model.eval().requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def loss(part: Part) -> Terms:
        terms = method.loss(part)._asdict()
        return terms if method.retains else {"forget": terms["forget"]}

    steps = (material.parts(rows, reference) for rows in material.rows())
    trained = minimise(parameters, steps, training.total(len(material.forget)), loss, training, kept, on_step)
    if kept is not None:
        kept.check()
    return trained, reference, material


@torch.no_grad()
def largest_change(model: nn.Module, before: nn.Module) -> tuple[str, float]:
    """The parameter that changed most, and by how much."""
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    changes = {name: float((now - then).abs().max()) for (name, now), then in pairs}
    name = max(changes, key=changes.get)
    return name, changes[name]


def read_record(folder: Path) -> dict[str, Any] | None:
    """What unlearn() recorded in a folder it wrote, None elsewhere."""
    path = folder / RECORD
    return json_object(path.read_bytes(), path) if path.is_file() else None


def with_training(unlearning: Unlearning, **given: Any) -> Unlearning:
    """The same, with those settings of its training that are not None."""
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(unlearning, training=replace(unlearning.schedule(), **changed))
