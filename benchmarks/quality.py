"""Quality of the presets, side by side: perplexity and KL on the same windows, cost, size; one CSV row per run.

    python benchmarks/quality.py --data shared/data --smollm2 models/smollm2 --gemma3 models/gemma3

Goes on where it was cut short: a row whose settings are in the CSV already is not run again. Every row runs in a
process of its own, so that its peak memory is its own. `--table` only prints the table.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "quality.csv"
WINDOWS, LENGTH, SAMPLES = 12, 512, 32
# Few epochs at a high rate: chosen by the calibration loss of SmolLM2's first two blocks at W3A16g64 (3 epochs at
# 0.01, 0.03, 0.06 end at 0.0377, 0.0258, 0.0224 of the target's power), never on the evaluation text.
OMNIQUANT = {"epochs": 3, "lwc_lr": 0.06}
PRESETS: dict[str, dict[str, Any]] = {"rtn": {}, "gptq": {}, "awq": {}, "omniquant": OMNIQUANT}


@dataclass(frozen=True)
class Run:
    """One row's settings: all that decides its result."""

    model: str
    scheme: str
    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    calibration: str = "wikitext2-valid"
    samples: int = SAMPLES

    def key(self) -> str:
        """The row's identity in the CSV."""
        return json.dumps(asdict(self), sort_keys=True)


def runs() -> list[Run]:
    """Every row. First rtn and omniquant everywhere and what LET is worth, then the presets between them."""
    smol = ["W4A16g64", "W3A16g64", "W2A16g64", "W4A4", "W4A16", "W6A6"]
    gemma = ["W4A16g128", "W3A16g128", "W2A16g128", "W4A4"]
    asym = [f"{scheme}-asym" for scheme in ("W3A16g64", "W2A16g64", "W4A16g64", "W4A16")]
    pairs = [("smollm2", scheme) for scheme in smol] + [("gemma3", scheme) for scheme in gemma]
    ends, between = ("rtn", "omniquant"), ("gptq", "awq")
    without = OMNIQUANT | {"let": False}
    rows = [run for scheme in asym for run in compared("smollm2", scheme, ("rtn",))]
    rows += [Run(model, "W4A4", "omniquant", without) for model in ("smollm2", "gemma3")]
    rows += [run for model, scheme in pairs for run in compared(model, scheme, ends)]
    rows += [
        Run(model, scheme, "omniquant", OMNIQUANT | {"skip_sinks": True}) for model, scheme in (pairs[1], pairs[7])
    ]
    rows += [run for model, scheme in pairs for run in compared(model, scheme, between)]
    rows += [Run("smollm2", "W3A16g64-asym", "omniquant", {"epochs": 10}, samples=24)]
    rows += [run for scheme in asym for run in compared("smollm2", scheme, ("omniquant",))]
    rows += [
        Run("smollm2", scheme, preset, PRESETS[preset], "self")
        for preset in ("omniquant", *between)
        for scheme in ("W3A16g64", "W4A16g64")
    ]
    rows += [run for scheme in asym for run in compared("smollm2", scheme, between)]
    return rows + [run for scheme in gemma[:3] for run in compared("gemma3", f"{scheme}-asym", tuple(PRESETS))]


def compared(model: str, scheme: str, presets: tuple[str, ...]) -> list[Run]:
    """One scheme with the given presets, at the table's settings."""
    return [Run(model, scheme, preset, PRESETS[preset]) for preset in presets]


def measured(run: Run, model: Path, data: Path) -> dict[str, Any]:
    """Quantises and evaluates one row through the public pipeline; plain values."""
    import torch

    from omniq.bench.facts import commit, machine
    from omniq.calibrate.data import DataSpec
    from omniq.eval.windows import EvalSpec
    from omniq.pipeline import quantize
    from omniq.recipe import Recipe
    from omniq.spec import LinearSpec

    source = "self" if run.calibration == "self" else str(data / "wikitext-2" / "wiki.valid.clean.txt")
    recipe = Recipe(LinearSpec.parse(run.scheme), run.preset, run.options, DataSpec(source, run.samples, LENGTH))
    spec = EvalSpec(data / "wikitext-2" / "wiki.test.raw", WINDOWS, LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        began = _cpu_seconds()
        marks: list[float] = []
        report = quantize(
            str(model), Path(folder) / "out", recipe, evaluate=spec, on_event=lambda _e: marks.append(_cpu_seconds())
        )
    facts = {
        k: v
        for k, v in report.to_dict().items()
        if k not in ("out", "scheme", "preset", "loaders", "verified", "protocol")
    }
    return facts | {
        "cpu_seconds": round(marks[-1] - began, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine(torch.device("cpu")),
        "commit": commit(ROOT),
        "date": datetime.date.today().isoformat(),
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def read_rows() -> list[dict[str, str]]:
    """The rows measured so far."""
    if not CSV.is_file():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def done_keys() -> set[str]:
    """Keys of the rows in the CSV."""
    return {
        Run(r["model"], r["scheme"], r["preset"], json.loads(r["options"]), r["calibration"], int(r["samples"])).key()
        for r in read_rows()
    }


def table() -> str:
    """A Markdown table per model and calibration text: KL (perplexity) by scheme and preset; then the rows apart."""
    rows = read_rows()
    out = []
    for model, calibration in dict.fromkeys((r["model"], r["calibration"]) for r in rows):
        mine = [r for r in rows if (r["model"], r["calibration"]) == (model, calibration)]
        original = float(mine[0]["ppl_original"])
        out.append(f"\n{model}, calibrated on {calibration}; perplexity of the original {original:.2f}\n")
        out.append("| scheme | bits per weight | " + " | ".join(PRESETS) + " |")
        out.append("|---|---|" + "---|" * len(PRESETS))
        for scheme in dict.fromkeys(r["scheme"] for r in mine):
            bits = next(float(r["bits_per_weight"]) for r in mine if r["scheme"] == scheme)
            cells = [_shown(mine, scheme, preset) for preset in PRESETS]
            out.append(f"| {scheme} | {bits:.2f} | " + " | ".join(cells) + " |")
    apart = [r for r in rows if json.loads(r["options"]) != PRESETS[r["preset"]] or int(r["samples"]) != SAMPLES]
    lines = [
        f"- {r['model']} {r['scheme']} {r['preset']} {r['options']}, {r['samples']} samples: "
        f"KL {float(r['kl']):.3f} (perplexity {float(r['ppl']):.1f})"
        for r in apart
    ]
    return "\n".join([*out, "", *lines])


def _shown(rows: list[dict[str, str]], scheme: str, preset: str) -> str:
    """KL (perplexity) of one cell at the table's settings, empty when it was not measured."""
    wanted = (scheme, preset, PRESETS[preset], SAMPLES)
    found = (r for r in rows if (r["scheme"], r["preset"], json.loads(r["options"]), int(r["samples"])) == wanted)
    return next((f"{float(r['kl']):.3f} ({_figure(float(r['ppl']))})" for r in found), "")


def _figure(perplexity: float) -> str:
    return f"{perplexity:.1f}" if perplexity < 1000 else f"{perplexity:.0e}"


def main() -> None:
    """Runs what is missing, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with wikitext-2/wiki.test.raw and wiki.valid.clean.txt")
    parser.add_argument("--smollm2", type=Path, help="model folder made by: omniq fetch-demo FOLDER")
    parser.add_argument("--gemma3", type=Path, help="model folder made by: omniq fetch-demo FOLDER --model gemma3")
    parser.add_argument("--only", default="", help="run only rows whose settings contain this text")
    parser.add_argument("--row", help="run this one row and print its facts as JSON (used by the script itself)")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    args = parser.parse_args()
    folders = {"smollm2": args.smollm2, "gemma3": args.gemma3}
    if args.row:
        run = Run(**json.loads(args.row))
        print(json.dumps(measured(run, folders[run.model], args.data)))
        return
    if not args.table:
        for run in runs():
            if folders[run.model] and args.only in run.key() and run.key() not in done_keys():
                _run_row(run, args)
    print(table())


def _run_row(run: Run, args: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--row", run.key(), "--data", str(args.data)]
    for name in ("smollm2", "gemma3"):
        if getattr(args, name):
            command += [f"--{name}", str(getattr(args, name))]
    print(f"{run.model} {run.scheme} {run.preset} {run.options} {run.calibration} ...", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the row failed with exit code {done.returncode}; run the script again to go on")
    facts = json.loads(done.stdout.splitlines()[-1])
    from omniq.bench.facts import append_rows

    append_rows(CSV, [asdict(run) | {"options": json.dumps(run.options, sort_keys=True)} | facts])
    print(
        f"  KL {facts['kl']:.4f}, perplexity {facts['ppl']:.2f}, {facts['cpu_seconds']:.0f} CPU s",
        flush=True,
    )


if __name__ == "__main__":
    main()
