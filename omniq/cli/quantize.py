"""omniq quantize: a model to a low-bit checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omniq.cli import eval_options as e
from omniq.cli import options as o
from omniq.cli import recipe_options as r
from omniq.cli.jsonlog import heard, log_of
from omniq.errors import DataError

if TYPE_CHECKING:
    from omniq.eval.windows import EvalSpec
    from omniq.recipe import Recipe
    from omniq.report import Plan, Report


def command(
    ctx: typer.Context,
    model: o.Model,
    out: o.Out,
    wbits: r.WBits = None,
    avg_bits: r.AvgBits = None,
    bits_choices: r.BitsChoices = None,
    abits: r.ABits = None,
    group_size: r.GroupSize = None,
    symmetric: r.Symmetric = None,
    act_symmetric: r.ActSymmetric = None,
    attention: r.Attention = None,
    kv_bits: r.KvBits = None,
    rotate: r.Rotate = None,
    search_clips: r.SearchClips = None,
    embed_bits: r.TableBits = None,
    embed_group_size: r.TableGroup = None,
    format: r.Format = None,
    calib: r.Calib = None,
    samples: r.Samples = None,
    length: r.Length = None,
    seed: r.Seed = None,
    split: r.Split = None,
    column: r.Column = None,
    preset: r.Preset = None,
    epochs: r.Epochs = None,
    batch_size: r.BatchSize = None,
    let: r.Let = None,
    lwc_lr: r.LwcLr = None,
    let_lr: r.LetLr = None,
    alpha: r.Alpha = None,
    aug_loss: r.AugLoss = None,
    set_: r.Set = None,
    config: r.Config = None,
    eval_text: e.EvalText = None,
    eval_windows: e.EvalWindows = 0,
    eval_length: e.EvalLength = 512,
    device: o.Device = "auto",
    max_memory: o.MaxMemory = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    log_json: o.LogJson = None,
) -> None:
    """Quantise MODEL and write a checkpoint that transformers, vLLM and omniq load; run again, it goes on."""
    from omniq.choices import recipe_from
    from omniq.devices import device_named
    from omniq.memory import budget_of

    recipe, evaluate = recipe_from(config, ctx.params), eval_spec(eval_text, eval_windows, eval_length)
    shared = {"overwrite": overwrite, "revision": revision, "trust_remote_code": trust_remote_code}
    shared |= {"device": device_named(device), "max_memory": budget_of(max_memory)}
    log_of(ctx).write("settings", model=model, out=out, recipe=recipe.to_dict())
    if dry_run:
        return planned(model, out, recipe, as_json, shared)
    quantized(ctx, model, out, recipe, (as_json, quiet), {**shared, "evaluate": evaluate})


def planned(model: str, out: Path, recipe: Recipe, as_json: bool, settings: dict[str, Any]) -> None:
    """Shows the plan. settings: of pipeline.plan, by name."""
    from omniq import hf, pipeline

    hf.quiet()
    show_plan(pipeline.plan(model, out, recipe, **settings), as_json)


def quantized(
    ctx: typer.Context, model: str, out: Path, recipe: Recipe, shown: tuple[bool, bool], settings: dict[str, Any]
) -> None:
    """Runs the quantisation and shows how it goes and its report; of several processes the first alone speaks.

    shown: as JSON, quietly. settings: of pipeline.quantize, by name.
    """
    import torch

    from omniq import hf, pipeline
    from omniq.calibrate.ranks import launched

    hf.quiet()
    as_json, quiet = shown
    with launched(torch.device(settings["device"])) as ranks:
        with heard(ctx, quiet or not ranks.first) as listener:
            report = pipeline.quantize(model, out, recipe, on_event=listener, ranks=ranks, **settings)
        if ranks.first:
            log_of(ctx).write("result", result=report.to_dict())
            show_report(report, as_json, quiet)


def eval_spec(text: Path | None, windows: int, length: int) -> EvalSpec | None:
    """What to evaluate on, or None when no text is given; a text that cannot be read is an error before work starts."""
    from omniq.eval.windows import EvalSpec
    from omniq.text import documents

    if text is None:
        return None
    if not any(doc for doc in documents(str(text))):
        raise DataError(f"{text} holds no text to evaluate on; give --eval a file with text")
    return EvalSpec(text, windows, length)


def show_plan(plan: Plan, as_json: bool) -> None:
    """The plan on standard output."""
    from omniq.cli.render import print_json, print_pairs
    from omniq.eval.size import human_bytes
    from omniq.page.words import duration

    if as_json:
        return print_json(plan.to_dict())
    pairs = [
        ("model", plan.model),
        ("scheme", plan.scheme),
        ("size", f"{plan.blocks} blocks, {plan.linears} linear layers to quantise, {plan.parameters:,} parameters"),
        *([("embedding table", plan.tables)] if plan.tables else []),
        ("bits per weight", f"{plan.bits_per_weight:.2f}"),
        ("on disk", f"{human_bytes(plan.size_before)} -> {human_bytes(plan.size_after)}"),
        ("peak memory", f"about {human_bytes(plan.peak_memory)}"),
        *([("on the device", f"about {human_bytes(plan.device_memory)}")] if plan.device_memory else []),
        *(("where things live", sentence) for sentence in plan.lives),
        ("disk used meanwhile", human_bytes(plan.work_bytes)),
        ("time", f"about {duration(plan.seconds)} on this machine"),
        *(("loads in", loader) for loader in plan.loaders),
        *(("note", note) for note in plan.notes),
    ]
    print_pairs("Plan (nothing has been written)", pairs)


def show_report(report: Report, as_json: bool, quiet: bool) -> None:
    """The report on standard output; a quiet run prints it as JSON or not at all."""
    from omniq.cli.render import print_json, print_pairs

    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        print_pairs(f"{report.scheme} by {report.preset}", report_pairs(report))


def report_pairs(report: Report) -> list[tuple[str, str]]:
    """The report as rows for people."""
    from omniq.eval.size import human_bytes
    from omniq.page.words import duration

    pairs = [
        ("written to", report.out),
        ("report", str(Path(report.out) / "report.html")),
        *([("embedding table", report.tables)] if report.tables else []),
        ("bits per weight", f"{report.bits_per_weight:.2f}"),
        *([("chosen bits", report.allocation)] if report.allocation else []),
        ("size", f"{human_bytes(report.size_before)} -> {human_bytes(report.size_after)}"),
        ("time", duration(report.seconds)),
        ("peak memory", human_bytes(report.peak_memory)),
        ("read back", "computes what was calibrated" if report.verified else "not verified"),
    ]
    if report.skipped_steps:
        pairs.append(("skipped steps", f"{report.skipped_steps} (loss not finite)"))
    if report.protocol:
        pairs += quality_pairs(report.ppl_original, report.ppl, report.kl, report.top1, report.protocol)
    return pairs + [("loads in", loader) for loader in report.loaders]


def quality_pairs(
    ppl_original: float | None, ppl: float | None, kl: float | None, top1: float | None, protocol: str
) -> list[tuple[str, str]]:
    """Measured quality as rows for people, with the protocol it was measured by."""
    before = f"{ppl_original:.3f} -> " if ppl_original is not None else ""
    pairs = [("perplexity", f"{before}{ppl:.3f}")]
    if kl is not None:
        pairs.append(("KL to the original", f"{kl:.4f} nats per token"))
    if top1 is not None:
        pairs.append(("same top token", f"{100 * top1:.1f} %"))
    return [*pairs, ("measured on", protocol)]
