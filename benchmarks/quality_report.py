"""Tables and the plot of what benchmarks/quality.py measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from quality_rows import MATCHED, PEERS, PIECES, PRESETS, SMOOTHQUANT, run_of

Row = dict[str, str]
COLOURS = {
    "rtn": "#8a8a8a",
    "gptq": "#c77c11",
    "awq": "#2a7f62",
    "omniquant": "#3553a4",
    "fast": "#7fa8d9",
    "default": "#17456e",
    "best": "#0b1f33",
    "auto-round 20": "#e8b0b0",
    "auto-round 50": "#d06a6a",
    "auto-round 200": "#b03030",
    "auto-round": "#6d0f0f",
    "gptqmodel-gptaq": "#8c564b",
    "gptqmodel-gptq": "#d6a76c",
    "llmcompressor-gptq": "#9467bd",
    "llmcompressor-awq": "#5fb49c",
    "hqq": "#e377c2",
    "torchao": "#444444",
}


def label(row: Row) -> str:
    """'omniquant', or for a peer with settings 'auto-round 200'."""
    options, recipe = json.loads(row["options"]), run_of(row).recipe
    if options == PRESETS.get(row["preset"]):
        options = {}
    options |= recipe
    steps = options.pop("iters", None)
    options.pop("batch_size", None)
    words = [row["preset"], *([str(steps)] if steps else [])]
    return " ".join([*words, *(f"{name}={value}" for name, value in sorted(options.items()))])


def is_apart(row: Row) -> bool:
    """Whether a preset of omniq ran with other settings than the tables'."""
    options = json.loads(row["options"])
    return row["preset"] in PRESETS and options not in (PRESETS[row["preset"]], SMOOTHQUANT)


def groups(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """(title, rows) of every table: one model, calibration text and number of samples."""
    for key in dict.fromkeys((row["model"], row["calibration"], row["samples"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["calibration"], row["samples"]) == key]
        yield f"{key[0]}, calibrated on {key[2]} samples of {key[1]}", mine


def table(rows: list[Row]) -> str:
    """Markdown: for each model and calibration text KL (perplexity), KL on the other text, cost; then rows apart."""
    out = []
    for title, mine in groups([row for row in rows if not is_apart(row)]):
        out.append(f"\n{title}; perplexity of the original {float(mine[0]['ppl_original']):.2f}\n")
        out.append("KL (perplexity) on WikiText-2 test:\n")
        out += grid(mine, lambda row: f"{float(row['kl']):.3f} ({_figure(float(row['ppl']))})")
        if any(row["other_kl"] for row in mine):
            texts = ", ".join(dict.fromkeys(row["other_text"] for row in mine if row["other_text"]))
            out.append(f"\nKL (perplexity) on another kind of text, {texts}:\n")
            out += grid(mine, _other)
        out.append("\nMinutes, CPU minutes, peak memory in GB, optimiser steps:\n")
        out += grid(mine, _cost)
    lines = [
        f"- {row['model']} {row['scheme']} {row['preset']} {row['options']}, {row['samples']} samples: "
        f"KL {float(row['kl']):.3f} (perplexity {float(row['ppl']):.1f})"
        for row in rows
        if is_apart(row)
    ]
    return "\n".join([*out, "", *lines, "", pieces(rows)])


def grid(rows: list[Row], shown: Callable[[Row], str]) -> Iterator[str]:
    """Lines of a Markdown table: methods down, schemes across; a scheme's own bits per weight where all agree."""
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    yield "| method | " + " | ".join(f"{scheme}{_bits(rows, scheme)}" for scheme in schemes) + " |"
    yield "|---|" + "---|" * len(schemes)
    for name in sorted({label(row) for row in rows}, key=_order):
        cells = {row["scheme"]: shown(row) + _own_bits(rows, row) for row in rows if label(row) == name}
        yield f"| {name} | " + " | ".join(cells.get(scheme, "") for scheme in schemes) + " |"


def pieces(rows: list[Row]) -> str:
    """Markdown: the KL of `default` with each of its pieces left out, beside that with all."""
    runs = [(run_of(row), row) for row in rows if row["preset"] == "default" and row["samples"] == str(MATCHED)]
    lines = ["| model and scheme | left out | KL | more | minutes, CPU minutes, GB, steps |", "|---|---|---|---|---|"]
    for whole, reference in runs:
        for name, options in {"nothing": {}, **PIECES}.items() if whole == replace(whole, options={}) else ():
            for row in (row for run, row in runs if run == replace(whole, options=options)):
                more = float(row["kl"]) / float(reference["kl"]) - 1
                where = f"{whole.model} {whole.scheme}"
                lines.append(f"| {where} | {name} | {float(row['kl']):.4f} | {more:+.1%} | {_cost(row)} |")
    return "\n".join(lines)


def _order(name: str) -> tuple[int, str]:
    """omniq's presets first, then the peers."""
    listed = [*PRESETS, *dict(PEERS)]
    return listed.index(name.split()[0]), f"{name:>40}"


def _usual_bits(rows: list[Row], scheme: str) -> str:
    """What most rows of a scheme store for a weight."""
    found = [f"{float(row['bits_per_weight']):.2f}" for row in rows if row["scheme"] == scheme]
    return max(found, key=found.count)


def _bits(rows: list[Row], scheme: str) -> str:
    return f", {_usual_bits(rows, scheme)} bits"


def _own_bits(rows: list[Row], row: Row) -> str:
    """A note where this row stores more or less than the others."""
    own = f"{float(row['bits_per_weight']):.2f}"
    return "" if own == _usual_bits(rows, row["scheme"]) else f" at {own} bits"


def _other(row: Row) -> str:
    return f"{float(row['other_kl']):.3f} ({_figure(float(row['other_ppl']))})" if row["other_kl"] else ""


def _cost(row: Row) -> str:
    minutes, cpu = float(row["seconds"]) / 60, float(row["cpu_seconds"]) / 60
    steps = f", {row['steps']}" if row["steps"] else ""
    return f"{minutes:.1f}, {cpu:.1f}, {float(row['peak_memory']) / 2**30:.1f}{steps}"


def _figure(perplexity: float) -> str:
    return f"{perplexity:.1f}" if perplexity < 1000 else f"{perplexity:.0e}"


def draw(rows: list[Row], path: Path) -> None:
    """KL against bits per weight, one line a method, weight-only schemes; a panel for each table and text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    weight_only = [row for row in rows if not is_apart(row) and run_of(row).scheme.find("A16") > 0]
    panels = [
        (f"{title}\n{text}", column, mine)
        for title, mine in groups(weight_only)
        for column, text in (("kl", "WikiText-2 test"), ("other_kl", "another kind of text"))
        if any(row[column] for row in mine)
    ]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, 4 * len(panels)), layout="constrained", squeeze=False, sharex=True
    )
    for axis, (title, column, mine) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, [row for row in mine if row[column]], column)
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axis, rows: list[Row], column: str) -> None:
    """One panel; asymmetric schemes are hollow."""
    for name in sorted({label(row) for row in rows}, key=_order):
        mine = sorted((row for row in rows if label(row) == name), key=lambda row: float(row["bits_per_weight"]))
        colour = COLOURS.get(name, COLOURS.get(name.split()[0], "#1f77b4"))
        style = {"color": colour, "linewidth": 1, "linestyle": "--" if name.split()[0] in dict(PEERS) else "-"}
        for asymmetric in (False, True):
            chosen = [row for row in mine if row["scheme"].endswith("-asym") == asymmetric]
            x = [float(row["bits_per_weight"]) for row in chosen]
            y = [float(row[column]) for row in chosen]
            fill = "none" if asymmetric else colour
            shown = name if chosen and (not asymmetric or len(chosen) == len(mine)) else None
            axis.plot(x, y, marker="o", markersize=4, markerfacecolor=fill, label=shown, **style)
    axis.set_yscale("log")
    axis.set_xlabel("bits per weight, with scales and zero points (hollow: asymmetric)")
    axis.set_ylabel("KL to the original, nats a token")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
