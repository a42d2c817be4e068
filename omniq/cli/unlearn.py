"""omniq unlearn: a model that knows the forget set to one that was made to forget it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from omniq.cli import options as o
from omniq.cli import training_options as t
from omniq.cli.completion import names_in
from omniq.cli.jsonlog import Log, log_of
from omniq.events import Notice

if TYPE_CHECKING:
    from omniq.unlearn.run import Unlearned, Unlearning

Method = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        help="ga, grad_diff, kl, npo, simnpo, random_label, idk, dpo_idk or rmu: omniq list unlearners.",
        rich_help_panel=o.METHOD,
        show_default=False,
        autocompletion=names_in("omniq.unlearn.methods"),
    ),
]
Set = Annotated[
    list[str] | None,
    o.option(
        "--set", panel=o.METHOD, metavar="KEY=VALUE", help="Any option of the method, such as beta=0.1 (repeatable)."
    ),
]
KeepCodes = Annotated[
    str | None,
    o.option(
        "--keep-codes",
        panel=o.METHOD,
        metavar="SCHEME",
        help="Keep weights so close to the grid of a scheme, such as W4A16g32, that rounding to it undoes everything.",
    ),
]


def command(
    ctx: typer.Context,
    model: o.Model,
    data: t.Data,
    method: Method,
    out: t.Out,
    set_: Set = None,
    keep_codes: KeepCodes = None,
    forms: t.Forms = None,
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
    log_json: o.LogJson = None,
) -> None:
    """Make MODEL forget the forget split of the data, and write the result as a float32 model folder.

    Rates and epochs are the method's usual ones for models of billions of weights; small models need higher rates.
    """
    from omniq import hf
    from omniq.choices import assignments
    from omniq.cli.render import print_json, print_pairs
    from omniq.devices import device_named
    from omniq.knowledge.source import read
    from omniq.unlearn.run import Unlearning, unlearn, with_training

    given = {"epochs": epochs, "steps": steps, "lr": lr, "batch_size": batch_size, "schedule": schedule, "seed": seed}
    given |= {"warmup": warmup, "max_tokens": max_tokens, "pass_tokens": pass_tokens, "bfloat16": bfloat16 or None}
    wanted = Unlearning(
        method, assignments(set_ or []), None, t.forms_in(forms), t.scheme_in(keep_codes), template=template
    )
    unlearning = with_training(wanted, **given)
    knowledge = read(data)
    hf.quiet()
    log = log_of(ctx)
    log.write("settings", model=model, out=out, unlearning=unlearning.to_dict())
    where = {"device": device_named(device), "trust_remote_code": trust_remote_code, "overwrite": overwrite}
    with t.steps_shown(quiet or log.on_stderr) as shown:
        steps = partial(step, log, shown)
        report = unlearn(model, knowledge, unlearning, out, **where, tell=partial(note, log), on_step=steps)
    log.write("result", result=report.to_dict())
    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        print_pairs(f"{method} on {knowledge.name}", rows(report, unlearning))


def step(log: Log, shown: Callable[[int, int, float], None], done: int, total: int, loss: float) -> None:
    """A training step, in the log and for people."""
    log.step(done, total, f"loss {loss:.6g}")
    shown(done, total, loss)


def note(log: Log, sentence: str) -> None:
    """A sentence that the user should read, on standard error and in the log."""
    log(Notice(sentence))
    if not log.on_stderr:
        typer.echo(f"note: {sentence}", err=True)


def rows(report: Unlearned, unlearning: Unlearning) -> list[tuple[str, str]]:
    """The report as rows for people."""
    from omniq.page.words import duration

    skipped = [("skipped steps", f"{report.skipped_steps} (loss not finite)")] if report.skipped_steps else []
    kept = [("codes kept", str(unlearning.keep_codes))] if unlearning.keep_codes else []
    return [
        ("written to", report.out),
        ("items", f"{report.forget} to forget, {report.retain} to retain"),
        ("steps", str(report.steps)),
        *skipped,
        *t.loss_rows(report.losses),
        ("largest change", f"{report.largest_change:.3g} in {report.largest_change_in}"),
        *kept,
        ("time", duration(report.seconds)),
    ]
