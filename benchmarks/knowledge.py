"""What low bits do to what a model knows, measured by `omniq audit`: facts, and unlearned knowledge that may come back.

    python benchmarks/knowledge.py --model models/smollm2 --tofu data/tofu --text wiki.valid.clean.txt --work FOLDER

Two parts. `facts`: the model as it is, asked facts (omniq's own, TOFU's world facts and authors). `unlearning`: the
model taught TOFU's authors, made to forget some of them by four methods. Both quantised by four presets at several bits
and compared with the same model before. Goes on where it was cut short: whatever lies complete in the work folder
is not made again. An audit's rows are added to benchmarks/results/knowledge.csv when it is complete.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "knowledge.csv"
OMNIQUANT = {"epochs": 2, "lwc_lr": 0.06}
PRESETS: dict[str, dict[str, Any]] = {"rtn": {}, "gptq": {}, "awq": {}, "omniquant": OMNIQUANT}
SAMPLES, LENGTH = 8, 512
FACT_BITS, UNLEARNED_BITS = (8, 4, 3, 2), (8, 4, 3)
ALL = 1000
TEACH = ["--epochs", "6", "--lr", "2e-4"]
# c: three times the length of the hidden states there, without which RMU changes nothing in this model.
RMU = ["--set", "c=300", "--set", "alpha=10", "--set", "down_only=false"]
UNLEARN = {
    "npo": ["--lr", "2e-5"],
    "rmu": ["--lr", "5e-4", *RMU],
    "grad_diff": ["--lr", "2e-5"],
    "idk": ["--lr", "2e-5"],
}
TRAINING = ["--template", "plain", "--batch-size", "16", "--bfloat16"]
KEPT = ("rouge_recall", "contains", "prob", "mc_acc", "tr_prob_mean")
COLUMNS = ("value", "ci_lo", "ci_hi", "chance", "delta_vs_orig_fp", "delta_vs_orig_fp_lo", "delta_vs_orig_fp_hi",
           "delta_vs_unl_fp", "delta_vs_unl_fp_lo", "delta_vs_unl_fp_hi", "recovered_share", "recovered_share_lo",
           "recovered_share_hi", "did", "did_lo", "did_hi", "p_value")  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """One audit. name: of its rows and its folder. items: questions of a split at most.

    unlearned: the folder in the work folder, None without one.
    """

    name: str
    data: str
    bits: tuple[int, ...]
    items: int
    unlearned: str | None = None


def audits(work: Path, tofu: Path, items: int) -> list[Audit]:
    """Every audit, facts first, of which all are asked: their answers are short."""
    world = Audit("world", f"jsonl:{work / 'world.jsonl'}", FACT_BITS, ALL)
    taught = [Audit(method, data(tofu), UNLEARNED_BITS, items, method) for method in UNLEARN]
    return [Audit("facts", "facts", FACT_BITS, ALL), world, *taught]


def data(tofu: Path) -> str:
    """TOFU with the forget set of ten authors in two hundred."""
    return f"tofu:{tofu},forget=05"


def run_all(args: argparse.Namespace) -> None:
    """Makes the subjects and runs every audit that has no rows yet."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    write_world(args.tofu, work / "world.jsonl")
    first: dict[bool, Path] = {}
    for audit in audits(work, args.tofu, args.items):
        out = work / f"audit-{audit.name}"
        if args.part in ("all", "unlearning" if audit.unlearned else "facts") and audit.name not in done():
            make_subjects(audit, args)
            reused = first.get(bool(audit.unlearned)) if audit.unlearned else None
            run_audit(audit, out, reused, args)
            keep(audit, out)
        first.setdefault(bool(audit.unlearned), out)


def write_world(tofu: Path, out: Path) -> None:
    """TOFU's real authors and world facts as rows of a jsonl source."""
    lines = []
    for relation in ("real_authors", "world_facts"):
        for row in json.loads((tofu / f"{relation}_perturbed.json").read_text(encoding="utf-8")):
            item = {"question": row["question"], "answer": row["answer"], "wrong_answers": row["perturbed_answer"]}
            lines.append(json.dumps(item | {"split": "world", "relation": relation}))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_subjects(audit: Audit, args: argparse.Namespace) -> None:
    """The taught model and the unlearned one that an audit needs, unless they are there."""
    taught = args.work / "original"
    if audit.unlearned and not taught.exists():
        source = ["--model", str(args.model), "--data", data(args.tofu), "--out", str(taught)]
        omniq("audit", "make-subject", *source, *TEACH, *TRAINING)
    if audit.unlearned and not (out := args.work / audit.unlearned).exists():
        wanted = ["--method", audit.unlearned, *UNLEARN[audit.unlearned], "--epochs", "5"]
        omniq("unlearn", str(taught), "--data", data(args.tofu), *wanted, *TRAINING, "--out", str(out))


def run_audit(audit: Audit, out: Path, reused: Path | None, args: argparse.Namespace) -> None:
    """One call of omniq audit with all recipes; on world with the models that the audit of facts made."""
    original = args.work / "original" if audit.unlearned else args.model
    words = ["--original", str(original), "--data", audit.data, "--evaluators", "qa_gen,qa_ll", "--out", str(out)]
    if audit.unlearned:
        words += ["--unlearned", str(args.work / audit.unlearned), "--template", "plain"]
    words += ["--items", str(audit.items)]
    models = (args.work / "audit-facts" / "models").glob("*/config.json")
    made = sorted(path.parent for path in models) if audit.name == "world" else []
    for folder in made:
        words += ["--quantized", str(folder)]
    for recipe in [] if made else recipes(audit.bits, args):
        words += ["--recipe", str(recipe)]
    omniq("audit", *words, *(["--reuse", str(reused)] if reused else []))


def recipes(bits: tuple[int, ...], args: argparse.Namespace) -> Iterator[Path]:
    """A YAML file for each preset at each number of bits."""
    folder = args.work / "recipes"
    folder.mkdir(exist_ok=True)
    for preset, options in PRESETS.items():
        for count in bits:
            path = folder / f"{preset}-{count}.yaml"
            source = {"source": str(args.text), "samples": SAMPLES, "length": LENGTH}
            values = {"scheme": f"W{count}A16g64", "preset": preset, "options": options, "data": source}
            path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
            yield path


def omniq(*words: str) -> None:
    """Runs a command as a user would; ends the script where it fails."""
    print(f"omniq {' '.join(words[:2])} ... {words[-1]}", flush=True)
    if code := subprocess.run([Path(sys.executable).with_name("omniq"), *words]).returncode:
        sys.exit(f"omniq ended with exit code {code}; run the script again to go on")


def keep(audit: Audit, out: Path) -> None:
    """Adds the audit's rows of the metrics shown to the CSV."""
    import torch

    from omniq.audit.store import read_result
    from omniq.bench.facts import append_rows, commit, facts

    result = read_result(out / "audit.json")
    verdicts = {one.name: one for one in result.verdicts}
    made = facts(torch.device("cpu"), "wall") | {"commit": commit(ROOT)}
    rows = []
    for row in result.rows:
        if row.metric in KEPT and (not row.attribute or row.split == "world") and row.layer is None:
            verdict = verdicts.get(row.name)
            found = {"audit": audit.name, "role": row.role, "method": row.quant_method, "bits": row.bits}
            found |= {"split": row.split, "attribute": row.attribute, "metric": row.metric, "n": row.n}
            found |= {name: getattr(row, name) for name in COLUMNS} | {"gate": row.gate}
            found |= {"state": verdict.state if verdict else "", "effect": "+".join(verdict.effect) if verdict else ""}
            rows.append(found | made)
    append_rows(CSV, rows)


def done() -> set[str]:
    """Names of the audits in the CSV."""
    if not CSV.is_file():
        return set()
    with CSV.open(newline="") as file:
        return {row["audit"] for row in csv.DictReader(file)}


def main() -> None:
    """Runs what is missing, audit by audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder made by: omniq fetch-demo FOLDER")
    parser.add_argument("--tofu", type=Path, required=True, help="folder with TOFU's files")
    parser.add_argument("--text", type=Path, required=True, help="text file to calibrate on")
    parser.add_argument("--work", type=Path, required=True, help="folder for subjects, quantised models and audits")
    parser.add_argument("--part", choices=("all", "facts", "unlearning"), default="all", help="which audits to run")
    parser.add_argument("--items", type=int, default=24, help="taught questions of a split at most")
    run_all(parser.parse_args())
    print("all done; python benchmarks/knowledge_report.py prints the tables and draws the plots")


if __name__ == "__main__":
    main()
