"""omniq bench kernels: how fast single kernels run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omniq.cli import options as o
from omniq.cli.bench_options import HOW, WHAT, ClockName, Csv, Threads, threads_set
from omniq.errors import UsageError

if TYPE_CHECKING:
    from omniq.bench.kernels import Sweep
    from omniq.bench.results import Result

CACHES = {"in": ("in",), "out": ("out",), "both": ("in", "out")}

Kernels = Annotated[
    list[str] | None,
    o.option("--kernel", panel=WHAT, default="all but reference", help="A kernel: omniq list kernels (repeatable)."),
]
Schemes = Annotated[
    list[str] | None,
    o.option("--scheme", panel=WHAT, default="W4A16g128", help="Such as W3A16g64 or W4A8 (repeatable)."),
]
Shapes = Annotated[
    list[str] | None,
    o.option("--shape", panel=WHAT, metavar="NxK", help="out_features x in_features of a weight (repeatable)."),
]
ModelShapes = Annotated[
    list[str] | None,
    o.option(
        "--model-shapes", panel=WHAT, metavar="NAME", help="All of a model, such as llama3-8b, or common (repeatable)."
    ),
]
Rows = Annotated[
    list[int] | None,
    o.option("-M", "--rows", panel=WHAT, default="1, 16, 128", help="Rows of the input, that is tokens (repeatable)."),
]
InputType = Annotated[
    str, typer.Option("--dtype", help="Of the input: bfloat16, float32 or float16.", rich_help_panel=WHAT)
]
Cache = Annotated[
    str,
    typer.Option(
        "--cache", help="in: the same weight each time. out: never one that is in the cache. both.", rich_help_panel=HOW
    ),
]
Seconds = Annotated[float, typer.Option(min=0.0, help="Time for each cell of the table.", rich_help_panel=HOW)]
Plot = Annotated[
    Path | None, o.option("--plot", panel=o.OUTPUT, metavar="FILE", help="Write a roofline plot: .png, .svg or .pdf.")
]


def kernels(
    kernel: Kernels = None,
    scheme: Schemes = None,
    shape: Shapes = None,
    model_shapes: ModelShapes = None,
    rows: Rows = None,
    dtype: InputType = "bfloat16",
    device: o.Device = "auto",
    threads: Threads = None,
    cache: Cache = "out",
    seconds: Seconds = 1.0,
    clock: ClockName = "wall",
    csv: Csv = None,
    plot: Plot = None,
    as_json: o.Json = False,
) -> None:
    """Time every kernel beside torch's own ways, as part of what this machine can do at most."""
    import torch

    from omniq.bench.facts import facts
    from omniq.bench.kernels import Sweep
    from omniq.bench.roofline import plot as draw
    from omniq.bench.samples import clock_named
    from omniq.bench.shapes import chosen_shapes
    from omniq.devices import device_named, dtype_named
    from omniq.spec import LinearSpec

    timer = clock_named(clock, threads_set(threads))
    if cache not in CACHES:
        raise UsageError(f"--cache is {cache!r}; use one of {', '.join(CACHES)}")
    given = {
        "kernels": tuple(kernel or ()),
        "specs": tuple(map(LinearSpec.parse, scheme or ())),
        "rows": tuple(rows or ()),
        "shapes": chosen_shapes(shape or [], model_shapes or []),
    }
    sweep = Sweep(
        **{name: value for name, value in given.items() if value},
        dtype=dtype_named(dtype) or torch.bfloat16,
        device=torch.device(device_named(device)),
        seconds=seconds,
        caches=CACHES[cache],
    )
    ending = facts(sweep.device, clock)
    found = swept(sweep, timer, ending, csv, plot)
    if plot:
        draw(found, plot, f"{ending['machine']}, threads: {ending['threads']}")
    show_kernels(found, ending, as_json)


def swept(
    sweep: Sweep, timer: Callable[[], float], ending: Mapping[str, Any], csv: Path | None, plot: Path | None
) -> list[Result]:
    """All rows; those of a cell are in the CSV file as soon as it is done."""
    from dataclasses import asdict

    from omniq.bench.facts import append_rows, check_csv
    from omniq.bench.kernels import results
    from omniq.bench.results import COLUMNS
    from omniq.bench.roofline import check_plot
    from omniq.progress import counting

    if csv:
        check_csv(csv, [*COLUMNS, *ending])
    if plot:
        check_plot(plot)
    found = []
    with counting(sweep.count(), "cell") as on_done:
        for done, rows in enumerate(results(sweep, timer), start=1):
            found += rows
            if csv:
                append_rows(csv, [{**asdict(row), **ending} for row in rows])
            on_done(done)
    return found


def show_kernels(rows: Sequence[Result], ending: Mapping[str, Any], as_json: bool) -> None:
    """The rows on standard output: those that ran, then those that did not, with their reasons."""
    from dataclasses import asdict

    from omniq.cli.render import print_json, print_pairs, print_table

    if as_json:
        return print_json({"machine": ending, "rows": [asdict(row) for row in rows]})
    print_pairs("Machine", [(name, str(ending[name])) for name in ("machine", "threads", "clock", "torch", "commit")])
    columns = ("kernel", "µs", "±%", "GB/s", "TFLOP/s", "of limit", "x f32", "x bf16", "x int4")
    for title, cell in groupby((row for row in rows if not row.reason), key=cell_title):
        print_table(title, columns, [kernel_cells(row) for row in cell])
    refused = [(row.kernel, f"{row.scheme} {row.n}x{row.k}", row.reason) for row in rows if row.reason]
    if refused:
        print_table("Did not run", ("kernel", "layer", "reason"), dict.fromkeys(refused))


def cell_title(row: Result) -> str:
    """What the rows of one cell have in common."""
    source = "in the cache, which" if row.cache == "in" else "out of the cache; memory"
    return f"{row.scheme}, {row.n}x{row.k}, M = {row.m}, {source} gives {row.limit_gbps:.1f} GB/s"


def kernel_cells(row: Result) -> tuple[str, ...]:
    """One row of the table for people."""
    shares = (row.vs_float32, row.vs_bfloat16, row.vs_int4)
    return (
        row.kernel,
        *(f"{1e6 * row.seconds:.1f}", f"{100 * row.spread:.0f}", f"{row.gbps:.1f}", f"{row.tflops:.3f}"),
        f"{100 * row.fraction:.0f} % {row.bound}",
        *("" if share is None else f"{share:.2f}" for share in shares),
    )
