"""omniq bench decode: how fast whole models read and write on this machine, and in how much memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omniq.cli import options as o
from omniq.cli.bench_options import HOW, WHAT, ClockName, Csv, Threads, threads_set

if TYPE_CHECKING:
    from omniq.bench.decode import Speed

HEADS = {
    "prefill_vs_bfloat16": "read x bf16",
    "decode_vs_bfloat16": "written x bf16",
    "prefill_vs_float32": "read x f32",
    "decode_vs_float32": "written x f32",
}

Original = Annotated[
    str | None, o.option("--against", panel=WHAT, metavar="MODEL", help="The original: run in bfloat16 and float32.")
]
Gguf = Annotated[
    Path | None, o.option("--gguf", panel=WHAT, metavar="FILE", help="A GGUF file, run with llama.cpp if installed.")
]
Prompt = Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of the prompt.", rich_help_panel=WHAT)]
New = Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens written after it.", rich_help_panel=WHAT)]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs, of which the median counts.", rich_help_panel=HOW)]


def decode(
    checkpoint: o.Checkpoint,
    against: Original = None,
    gguf: Gguf = None,
    prompt_tokens: Prompt = 256,
    new_tokens: New = 64,
    runs: Runs = 3,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: Threads = None,
    clock: ClockName = "wall",
    revision: o.Revision = None,
    csv: Csv = None,
    as_json: o.Json = False,
) -> None:
    """Run a quantised model and the original, each in its own process: tokens per second and peak memory."""
    import torch

    from omniq import hf
    from omniq.bench.decode import Load, subjects
    from omniq.bench.facts import facts
    from omniq.bench.samples import clock_named
    from omniq.devices import device_named, dtype_named
    from omniq.source import checked_folder

    place = device_named(device)
    load = Load(prompt_tokens, new_tokens, runs, threads_set(threads), place, clock)
    clock_named(clock, load.threads)
    original = hf.resolve(against, revision=revision, work=hf.cache_folder()) if against else None
    kind = None if dtype_named(dtype) is None else dtype
    models = subjects(checked_folder(checkpoint), original, gguf, kind)
    ending = {"model": checkpoint.name, "prompt": load.prompt, "new": load.new, "runs": load.runs}
    show_decode(run_models(models, load, ending | facts(torch.device(place), clock), csv), as_json)


def run_models(models: Sequence[Any], load: Any, ending: Mapping[str, Any], csv: Path | None) -> list[dict[str, Any]]:
    """A row of figures, ratios and facts per model; written to the CSV file when all have run, as ratios need all."""
    from dataclasses import asdict

    from omniq.bench.decode import COLUMNS, RATIOS, ratios, speeds
    from omniq.bench.facts import append_rows, check_csv
    from omniq.progress import counting

    if csv:
        check_csv(csv, [*COLUMNS, *RATIOS, *ending])
    found: list[Speed] = []
    with counting(len(models), "model") as on_done:
        for speed in speeds(models, load):
            found.append(speed)
            on_done(len(found))
    rows = [{**asdict(row), **times, **ending} for row, times in zip(found, ratios(found), strict=True)]
    if csv:
        append_rows(csv, rows)
    return rows


def show_decode(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """The rows on standard output."""
    from omniq.bench.decode import RATIOS
    from omniq.cli.render import print_json, print_table
    from omniq.eval.size import human_bytes

    if as_json:
        return print_json({"rows": rows})
    first = rows[0]
    title = f"{first['model']}: {first['prompt']} tokens read, {first['new']} written, threads: {first['threads']}"
    ran = [name for name in RATIOS if any(row[name] for row in rows)]
    columns = (
        "engine",
        "numbers",
        "table bits",
        "kernels",
        "read/s",
        "written/s",
        "libraries",
        "peak loading",
        "peak running",
    )
    print_table(
        title,
        (*columns, *(HEADS[name] for name in ran)),
        [
            (
                *(row["engine"], row["numbers"], str(row["embed_bits"] or ""), row["reason"] or row["kernels"]),
                *("" if row[name] is None else f"{row[name]:.1f}" for name in ("prefill", "decode")),
                *(
                    "" if row[name] is None else human_bytes(row[name])
                    for name in ("libraries", "load_peak", "run_peak")
                ),
                *("" if row[name] is None else f"{row[name]:.2f}" for name in ran),
            )
            for row in rows
        ],
    )
