"""omniq audit: what unlearning and quantisation did to what a model knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omniq.cli import audit_options as a
from omniq.cli import options as o
from omniq.cli.exits import FOUND
from omniq.cli.jsonlog import heard, log_of
from omniq.errors import UsageError

if TYPE_CHECKING:
    from omniq.audit.models import Given
    from omniq.audit.result import Result
    from omniq.audit.run import AuditSpec


def command(
    ctx: typer.Context,
    original: a.Original = None,
    unlearned: a.Unlearned = None,
    quantized: a.Quantized = None,
    recipe: a.Recipes = None,
    control: a.Controls = None,
    never: a.Never = None,
    data: a.Data = None,
    preset: a.AuditPreset = "quick",
    evaluators: a.Evaluators = None,
    items: a.Items = None,
    template: a.TemplateName = "auto",
    out: a.AuditOut = None,
    reuse: a.Reuse = None,
    seed: a.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    fail_on: a.FailOn = None,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    log_json: o.LogJson = None,
) -> None:
    """Say what unlearning and quantisation did to what a model knows.

    Compares the original, the unlearned and the quantised model with the control that decides: the original quantised
    by the same recipe, which is made where it is not given. Without --unlearned: what quantisation alone destroyed.
    Run the same command again after an interruption and it goes on where it stopped.
    """
    if ctx.invoked_subcommand:
        return
    from omniq import hf
    from omniq.audit.output import written
    from omniq.audit.run import audit

    if original is None or data is None or out is None:
        lacking = [
            name for name, value in (("--original", original), ("--data", data), ("--out", out)) if value is None
        ]
        raise UsageError(f"omniq audit needs {' and '.join(lacking)}; see omniq audit --help")
    wanted = effects_named(fail_on)
    hf.quiet()
    models = given(original, unlearned, never, quantized or [], control or [], recipe or [], trust_remote_code)
    spec = spec_of(models, data, preset, evaluators, items, template, seed, (device, dtype, trust_remote_code))
    with heard(ctx, quiet) as listener:
        result = audit(spec, out, reuse=reuse, overwrite=overwrite, on_event=listener)
    files = written(result, out)
    log_of(ctx).write("result", result=summary(result, files))
    show(result, files, as_json, quiet)
    if any(effect in wanted for verdict in result.verdicts for effect in verdict.effect):
        raise typer.Exit(FOUND)


def given(
    original: str,
    unlearned: str | None,
    never: str | None,
    quantized: list[Path],
    controls: list[Path],
    recipes: list[str],
    trust: bool,
) -> Given:
    """The models as folders; hub ids and GGUF files are fetched or converted first."""
    from omniq import hf
    from omniq.audit.models import Given, recipe_named
    from omniq.source import checked_folder

    def folder(model: str | None) -> Path | None:
        return None if model is None else hf.resolve(model, trust_remote_code=trust, work=hf.cache_folder())

    return Given(
        original=folder(original),
        unlearned=folder(unlearned),
        never=folder(never),
        quantized=tuple(map(checked_folder, quantized)),
        controls=tuple(map(checked_folder, controls)),
        recipes=dict(map(recipe_named, recipes)),
    )


def spec_of(
    models: Given,
    data: str,
    preset: str,
    evaluators: str | None,
    items: int | None,
    template: str,
    seed: int,
    place: tuple[str, str, bool],
) -> AuditSpec:
    """The audit that the options ask for. place: device, dtype and whether remote code is trusted."""
    from omniq.audit import presets
    from omniq.audit.run import AuditSpec, with_settings
    from omniq.devices import device_named, dtype_named
    from omniq.knowledge.items import FORMS

    if items is not None and items < 1:
        raise UsageError(f"--items is {items}; it must be 1 or more")
    device, dtype, trust = place
    limits = None if items is None else dict.fromkeys(FORMS, items)
    settings = with_settings(presets.preset(preset), seed=seed, items=limits)
    names = tuple(name.strip() for name in evaluators.split(",") if name.strip()) if evaluators else ()
    return AuditSpec(models, data, settings, template, device_named(device), dtype_named(dtype), trust, names)


def effects_named(text: str | None) -> tuple[str, ...]:
    """'recovered,collateral' -> ('RECOVERED', 'COLLATERAL'), each a known effect."""
    from omniq.audit.sentences import EFFECTS

    names = tuple(name.strip().upper() for name in (text or "").split(",") if name.strip())
    for name in names:
        if name not in EFFECTS:
            raise UsageError(f"--fail-on {name.lower()}: effects are {', '.join(effect.lower() for effect in EFFECTS)}")
    return names


def summary(result: Result, files: list[Path]) -> dict[str, Any]:
    """Verdicts, files and facts as plain values."""
    from dataclasses import asdict

    verdicts = [asdict(verdict) for verdict in result.verdicts]
    return {"verdicts": verdicts, "files": [str(file) for file in files], "facts": result.facts}


def show(result: Result, files: list[Path], as_json: bool, quiet: bool) -> None:
    """The verdicts and key figures on standard output."""
    from omniq.audit.summary import tables
    from omniq.cli.render import print_json, print_pairs, print_table

    if as_json:
        return print_json(summary(result, files))
    if quiet:
        return None
    for title, columns, rows in tables(result):
        print_table(title, columns, rows)
    return print_pairs("Written", [("", str(file)) for file in files])
