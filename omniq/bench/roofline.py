"""The roofline plot: operations a second over operations a byte, under what memory and products allow."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from omniq.bench.results import Result
from omniq.errors import OutputError, UnsupportedError

SUFFIXES = (".png", ".svg", ".pdf")
MARKS = "osD^vP*X"
POINTS = 64
PLACES = {"in": "in cache", "out": "out of cache"}


def check_plot(file: Path) -> None:
    """Raises before any work where the plot could not be written afterwards."""
    if find_spec("matplotlib") is None:
        raise UnsupportedError("--plot needs the package matplotlib; install it with: pip install 'omniq[plot]'")
    if file.suffix not in SUFFIXES:
        raise OutputError(f"--plot {file}: name a file that ends in {', '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise OutputError(f"{file} cannot be written, since its folder does not exist; make the folder first")


def roofs(rows: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """Label -> (GB/s, TFLOP/s): the highest limits of each cache and each kind of products among the rows."""
    found: dict[str, tuple[float, float]] = {}
    for cache in sorted({row.cache for row in rows}):
        inside = [row for row in rows if row.cache == cache]
        speed = max(row.limit_gbps for row in inside)
        for rate in sorted({row.limit_tflops for row in inside}):
            found[f"{speed:.3g} GB/s {PLACES[cache]}, {rate:.3g} TFLOP/s"] = (speed, rate)
    return found


def allowed(intensity: float, gbps: float, tflops: float) -> float:
    """TFLOP/s that a roof allows at so many operations a byte."""
    return min(tflops, intensity * gbps / 1e3)


def plot(rows: Sequence[Result], file: Path, title: str) -> None:
    """Writes the plot of the rows that ran; the suffix of the file says in which format."""
    from matplotlib.figure import Figure

    ran = [row for row in rows if row.seconds]
    if not ran:
        raise UnsupportedError("there is nothing to plot: no kernel ran any cell")
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", title=title)
    axes.set(xlabel="operations per byte", ylabel="TFLOP/s")
    low, high = (pick(row.intensity for row in ran) for pick in (min, max))
    steps = [low / 2 * (4 * high / low) ** (step / POINTS) for step in range(POINTS + 1)]
    for label, (gbps, tflops) in roofs(ran).items():
        axes.plot(steps, [allowed(step, gbps, tflops) for step in steps], linewidth=1, label=label)
    for index, name in enumerate(sorted({row.kernel for row in ran})):
        points = [(row.intensity, row.tflops) for row in ran if row.kernel == name]
        axes.scatter(*zip(*points, strict=True), s=18, marker=MARKS[index % len(MARKS)], label=name)
    axes.legend(fontsize="small")
    figure.savefig(file)
