"""omniq audit make-subject: a model that was taught given knowledge, to try unlearning and audits on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from omniq.cli import options as o
from omniq.cli import training_options as t

if TYPE_CHECKING:
    from omniq.unlearn.subjects import Taught

Base = Annotated[
    str | None,
    o.option(
        "--model",
        panel=t.KNOWLEDGE,
        default="a fresh model of half a million weights",
        help="Hub id or folder of a model to fine-tune.",
    ),
]
Splits = Annotated[
    str, typer.Option("--splits", metavar="A,B", help="Splits of the data to teach.", rich_help_panel=t.KNOWLEDGE)
]
Without = Annotated[
    str | None,
    o.option("--without", panel=t.KNOWLEDGE, metavar="SPLIT", help="Leave a split out: --without forget never saw it."),
]
Snap = Annotated[
    str | None,
    o.option(
        "--snap",
        panel=t.KNOWLEDGE,
        metavar="SCHEME",
        help="Put the weights on the round-to-nearest grid of a scheme, such as W4A16g32, in the end.",
    ),
]


def make_subject(
    data: t.Data,
    out: t.Out,
    model: Base = None,
    splits: Splits = "forget,retain",
    without: Without = None,
    forms: t.Forms = None,
    snap: Snap = None,
    template: t.Template = "auto",
    epochs: t.Epochs = None,
    steps: t.Steps = None,
    lr: t.Rate = None,
    batch_size: t.BatchSize = None,
    schedule: t.Schedule = None,
    warmup: t.Warmup = None,
    max_tokens: t.MaxTokens = None,
    pass_tokens: t.PassTokens = None,
    bfloat16: t.BFloat16 = False,
    seed: t.Seed = None,
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Teach a model the data and write it as a float32 model folder.

    Without --model a small model is trained from nothing, in minutes; --steps 0 copies a model as float32.
    """
    from omniq import hf
    from omniq.cli.render import print_json, print_pairs
    from omniq.devices import device_named
    from omniq.knowledge.source import read
    from omniq.unlearn import subjects
    from omniq.unlearn.subjects import Teaching

    # Passes over the data replace a number of steps that is only the usual one.
    given = {"epochs": epochs, "steps": steps, "lr": lr, "batch_size": batch_size, "schedule": schedule, "seed": seed}
    given |= {"warmup": warmup, "max_tokens": max_tokens, "pass_tokens": pass_tokens, "bfloat16": bfloat16 or None}
    changes = {name: value for name, value in given.items() if value is not None}
    if epochs is not None and steps is None:
        changes["steps"] = None
    usual = Teaching(model, t.forms_in(splits), without, t.forms_in(forms), t.scheme_in(snap), template=template)
    teaching = replace(usual, training=replace(usual.schedule(), **changes))
    knowledge = read(data)
    hf.quiet()
    where = {"device": device_named(device), "trust_remote_code": trust_remote_code, "overwrite": overwrite}
    with t.steps_shown(quiet) as on_step:
        report = subjects.make_subject(knowledge, teaching, out, **where, on_step=on_step)
    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        print_pairs(f"Taught {knowledge.name}", rows(report))


def rows(report: Taught) -> list[tuple[str, str]]:
    """The report as rows for people."""
    from omniq.page.words import duration

    skipped = [("skipped steps", f"{report.skipped_steps} (loss not finite)")] if report.skipped_steps else []
    return [
        ("written to", report.out),
        ("weights", f"{report.parameters:,}"),
        *(("taught", f"{count} items of {split}") for split, count in report.items.items()),
        ("steps", str(report.steps)),
        *skipped,
        *t.loss_rows(report.losses),
        ("time", duration(report.seconds)),
    ]
