"""omniq eval: perplexity, distance from the original, scores on tasks, and size of a quantised checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omniq.cli import eval_options as e
from omniq.cli import options as o
from omniq.cli.jsonlog import Log, counted, log_of
from omniq.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from omniq.eval.windows import EvalSpec
    from omniq.evaluation import Place
    from omniq.harness.tasks import Tasks, TaskScore


def command(
    ctx: typer.Context,
    checkpoint: o.Checkpoint,
    text: e.Text = None,
    tasks: e.Tasks = None,
    against: e.Against = None,
    include_path: e.IncludePath = None,
    limit: e.Limit = None,
    windows: e.Windows = 0,
    length: e.WindowLength = 512,
    batch: e.Batch = 1,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    activations: o.Activations = "exact",
    embed_bits: o.EmbedBits = 16,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    record: e.Record = False,
    as_json: o.Json = False,
    log_json: o.LogJson = None,
) -> None:
    """Measure a quantised model: perplexity on a text, KL and top-1 agreement with the original, tasks, and size."""
    from omniq.devices import device_named, dtype_named
    from omniq.eval.windows import EvalSpec
    from omniq.evaluation import Place

    if text is None and tasks is None:
        raise DataError(
            "omniq eval needs something to measure on; give a text with --text FILE, for example the WikiText-2 test "
            "split, or tasks of lm-evaluation-harness with --tasks A,B"
        )
    spec = EvalSpec(text, windows, length, batch) if text else None
    asked = tasks_named(tasks, include_path, limit, batch)
    place = Place(device_named(device), dtype_named(dtype), activations, embed_bits)
    if record:
        check_recordable(checkpoint, spec, place)
    result = measured(checkpoint, (spec, asked), place, against, revision, trust_remote_code, log_of(ctx))
    log_of(ctx).write("result", result={"checkpoint": str(checkpoint), **result})
    show(checkpoint, result, as_json)
    if record:
        from omniq.recording import recorded

        typer.echo(f"recorded in {', '.join(recorded(checkpoint, result))}", err=True)


def check_recordable(checkpoint: Path, spec: EvalSpec | None, place: Place) -> None:
    """Raises unless the figures are those of the checkpoint as stored, and it has a report to keep them in."""
    from omniq.reporting.folder import read_record
    from omniq.spec import FLOAT_BITS

    if spec is None:
        raise UsageError("--record keeps perplexity and what comes with it; give a text with --text FILE")
    if place.activations != "exact" or place.embed_bits != FLOAT_BITS:
        raise UsageError("--record keeps figures of what is stored; leave --activations and --embed-bits out")
    read_record(checkpoint)


def tasks_named(names: str | None, include_path: Path | None, limit: int | None, batch: int) -> Tasks | None:
    """The tasks that the options name, each of which exists; None where they name none."""
    if names is None:
        for option, value in (("--include-path", include_path), ("--limit", limit)):
            if value is not None:
                raise UsageError(f"{option} says something about tasks; name them with --tasks A,B")
        return None
    from omniq.harness.available import check_lm_eval

    check_lm_eval()
    from omniq.harness.tasks import HarnessSpec, found

    listed = tuple(name.strip() for name in names.split(",") if name.strip())
    return found(HarnessSpec(listed, include_path, limit, batch))


def measured(
    checkpoint: Path,
    what: tuple[EvalSpec | None, Tasks | None],
    place: Place,
    against: str | None,
    revision: str | None,
    trust: bool,
    log: Log,
) -> dict[str, Any]:
    """Every figure by name; those that need the original only when `against` names it."""
    from omniq import evaluation, hf
    from omniq.eval.size import checkpoint_bytes
    from omniq.eval.windows import windows
    from omniq.source import checked_folder

    hf.quiet()
    tokenizer = hf.load_tokenizer(checked_folder(checkpoint), trust_remote_code=trust)
    spec, asked = what
    taken = windows(spec, tokenizer) if spec else None
    cache = hf.cache_folder()
    folder = hf.resolve(against, revision=revision, trust_remote_code=trust, work=cache) if against else None
    quantised, original = evaluation.loaded_pair(checkpoint, folder, place, trust)
    figures = {}
    if spec:
        with counted(log, len(taken), "window") as on_done:
            figures = evaluation.measured(quantised, original, spec, taken, tokenizer, on_done)
    if asked:
        figures |= task_figures(asked, {"tasks": quantised, "tasks_original": original}, tokenizer)
    size, bits = checkpoint_bytes(checkpoint), evaluation.recorded_bits(checkpoint)
    return {**figures, "bytes": size, "bits_per_weight": bits}


def task_figures(asked: Tasks, models: Mapping[str, nn.Module | None], tokenizer: Any) -> dict[str, Any]:
    """What each model that is there scores: task -> metric -> value, stderr and number of items, by its key."""
    from omniq.harness.tasks import protocol

    found = {key: asked.scores(model, tokenizer=tokenizer) for key, model in models.items() if model is not None}
    return {**{key: nested(scores) for key, scores in found.items()}, "tasks_protocol": protocol(asked.spec)}


def nested(scores: Sequence[TaskScore]) -> dict[str, dict[str, Any]]:
    """Scores as task -> metric -> value, stderr and n."""
    result: dict[str, dict[str, Any]] = {}
    for score in scores:
        values = {"value": score.value, "stderr": score.stderr, "n": score.n}
        result.setdefault(score.task, {})[score.metric] = values
    return result


def show(checkpoint: Path, result: dict[str, Any], as_json: bool) -> None:
    """The figures on standard output."""
    from omniq.cli.quantize import quality_pairs
    from omniq.cli.render import print_json, print_pairs, print_table
    from omniq.eval.size import human_bytes

    if as_json:
        return print_json({"checkpoint": str(checkpoint), **result})
    pairs = []
    if "ppl" in result:
        pairs = quality_pairs(*(result.get(key) for key in ("ppl_original", "ppl", "kl", "top1")), result["protocol"])
    bits = "" if result["bits_per_weight"] is None else f", {result['bits_per_weight']:.2f} bits per quantised weight"
    print_pairs(str(checkpoint), [*pairs, ("size", human_bytes(result["bytes"]) + bits)])
    if "tasks" in result:
        print_table(result["tasks_protocol"], *task_table(result["tasks"], result.get("tasks_original")))
    return None


def task_table(ours: Mapping[str, Any], original: Mapping[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of task scores, those of the original beside them where it was asked too."""
    columns = ["task", "metric", *(["original"] if original else []), "quantised", "items"]
    rows = []
    for task, metrics in ours.items():
        for metric, values in metrics.items():
            before = [with_error(original[task][metric])] if original else []
            rows.append([task, metric, *before, with_error(values), str(values["n"] or "")])
    return columns, rows


def with_error(values: Mapping[str, Any]) -> str:
    """'0.4123 ± 0.0213', without the error where there is none."""
    error = "" if values["stderr"] is None else f" ± {values['stderr']:.4f}"
    return f"{values['value']:.4f}{error}"
