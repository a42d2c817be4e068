"""omniq quantize: a model to a low-bit checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omniq.cli import eval_options as e
from omniq.cli import options as o
from omniq.errors import DataError

if TYPE_CHECKING:
    from omniq.eval.windows import EvalSpec
    from omniq.recipe import Recipe
    from omniq.report import Plan, Report


def command(
    ctx: typer.Context,
    model: o.Model,
    out: o.Out,
    wbits: o.WBits = None,
    avg_bits: o.AvgBits = None,
    bits_choices: o.BitsChoices = None,
    abits: o.ABits = None,
    group_size: o.GroupSize = None,
    symmetric: o.Symmetric = None,
    act_symmetric: o.ActSymmetric = None,
    attention: o.Attention = None,
    rotate: o.Rotate = None,
    search_clips: o.SearchClips = None,
    embed_bits: o.TableBits = None,
    embed_group_size: o.TableGroup = None,
    format: o.Format = None,
    calib: o.Calib = None,
    samples: o.Samples = None,
    length: o.Length = None,
    seed: o.Seed = None,
    split: o.Split = None,
    column: o.Column = None,
    preset: o.Preset = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    let: o.Let = None,
    lwc_lr: o.LwcLr = None,
    let_lr: o.LetLr = None,
    alpha: o.Alpha = None,
    aug_loss: o.AugLoss = None,
    set_: o.Set = None,
    config: o.Config = None,
    eval_text: e.EvalText = None,
    eval_windows: e.EvalWindows = 0,
    eval_length: e.EvalLength = 512,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Quantise MODEL and write a checkpoint that transformers, vLLM and omniq load.

    Run the same command again after an interruption and it goes on where it stopped.
    """
    from omniq import hf, pipeline
    from omniq.choices import recipe_from
    from omniq.devices import device_named

    recipe, evaluate = recipe_from(config, ctx.params), eval_spec(eval_text, eval_windows, eval_length)
    shared = {"overwrite": overwrite, "revision": revision, "trust_remote_code": trust_remote_code}
    shared["device"] = device_named(device)
    hf.quiet()
    if dry_run:
        return show_plan(pipeline.plan(model, out, recipe, **shared), as_json)
    show_report(quantized(model, out, recipe, quiet, {**shared, "evaluate": evaluate}), as_json, quiet)


def quantized(model: str, out: Path, recipe: Recipe, quiet: bool, settings: dict[str, Any]) -> Report:
    """Runs the quantisation with its progress shown. settings: of pipeline.quantize, by name."""
    from omniq import pipeline
    from omniq.progress import ProgressReport

    with ProgressReport(quiet) as listener:
        return pipeline.quantize(model, out, recipe, on_event=listener, **settings)


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
