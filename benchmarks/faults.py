"""Faults of every kind, by a seed: each run ends with the bits of an undisturbed one, or with one sentence.

    python benchmarks/faults.py --minutes 10
    python benchmarks/faults.py --kinds "kill, new interpreters" --model MODEL --text FILE --faults 5

Processes are killed at any moment of every stage and the same command goes on; disks fill up, reads fail, bits are
flipped, the network goes away (tests/fault_kinds.py has the kinds). Tiny models of every preset are tried unless
--model names another. No finished block may be done twice and none be lost. One row per kind and job in
benchmarks/results/faults.csv; a row that is there already is not run again, so a run that was cut short goes on. What
must not happen is printed with its seed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "faults.csv"
sys.path.insert(0, str(ROOT / "tests"))

KILLS, OTHERS = 10, 4
"""Faults of a row: signals, and those of any other kind."""
FEW = {"network lost": 2, "kill, new interpreters": 5, "flips in the output": 32, "flips before reading back": 16}
"""Faults of a row of these kinds: some wait long, and some are cheap."""
EVERY_JOB = ("kill",)
FOR_JOBS = {
    "kill, new interpreters": ("default",),
    "network lost": ("rtn",),
    "flips in the output": ("gptq", "tables"),
    "flips in the input": ("gptq", "mixed"),
    "flips in the state": ("gptq", "default", "mixed", "tables"),
    "flips before reading back": ("default", "tables", "rtn"),
    "full disk": ("gptq", "default", "tables", "export gptq", "export gguf"),
}
"""Jobs that a kind is tried on, where it is not all of them or USUAL."""
USUAL = ("gptq", "tables", "export gptq")
RESUMABLE = ("gptq", "tables")
NOT_EXPORTS = ("read-only work folder", "clock", "flips in the state")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument("--minutes", type=float, help="start no row after so long; the same command goes on")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these; --list has them")
    parser.add_argument("--jobs", nargs="+", metavar="JOB", help="only these; --list has them")
    parser.add_argument("--faults", type=int, help="faults of each row, instead of what suits its kind")
    parser.add_argument("--model", type=Path, help="a model folder in place of the tiny models; needs --text")
    parser.add_argument("--text", type=Path, help="a text to calibrate it on")
    parser.add_argument("--csv", type=Path, default=CSV, help="the file of rows")
    parser.add_argument("--list", action="store_true", help="name kinds and jobs and end")
    args = parser.parse_args()
    if (args.model is None) != (args.text is None):
        parser.error("--model and --text go together")
    return args


def cases(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(kind, job, number of faults) of every row that is asked for."""
    from fault_kinds import KINDS
    from fault_places import JOBS

    for kind in args.kinds or KINDS:
        usual = RESUMABLE if kind in NOT_EXPORTS else USUAL
        jobs = [*JOBS] if kind in EVERY_JOB else FOR_JOBS.get(kind, usual)
        for job in args.jobs or jobs:
            yield kind, job, args.faults or FEW.get(kind, KILLS if kind in EVERY_JOB else OTHERS)


def row_of(place: Any, kind: str, job: str, count: int, args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """A row of the table, and a sentence for everything that must not happen."""
    import torch
    from fault_kinds import KINDS
    from fault_places import JOBS

    from omniq.bench.facts import commit, machine
    from omniq.hf import VERSION

    began = time.monotonic()
    tally = KINDS[kind](place, JOBS[job], count, Random(f"{args.seed}/{kind}/{job}"))
    return {
        **identity(kind, job, count, args),
        "runs": tally.runs,
        "identical": tally.identical,
        "sentences": tally.sentences,
        "wrong": len(tally.wrong),
        "redone": tally.redone,
        "without_effect": tally.unseen,
        "slowest_end": round(tally.slowest, 2),
        "where": "; ".join(f"{name}: {number}" for name, number in sorted(tally.where.items())),
        "seconds": round(time.monotonic() - began, 1),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": VERSION,
        "machine": machine(torch.device("cpu")),
        "commit": commit(ROOT),
        "date": datetime.date.today().isoformat(),
    }, tally.wrong


def identity(kind: str, job: str, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a row is known by."""
    model = args.model.name if args.model else "tiny llama"
    return {"kind": kind, "job": job, "model": model, "seed": args.seed, "faults": count}


def done(file: Path) -> list[dict[str, str]]:
    """The rows that are there."""
    if not file.is_file():
        return []
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def can_mount(folder: Path) -> bool:
    """Whether a disk of a chosen size can be made here, which takes the rights of the superuser."""
    import subprocess

    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    return made.returncode == 0 and subprocess.run(["umount", str(folder)]).returncode == 0


def main() -> None:
    """Runs the rows that are missing and prints each."""
    args = arguments()
    from fault_kinds import KINDS
    from fault_places import JOBS, Place

    from omniq.bench.facts import append_rows

    if args.list:
        print("\n".join(["kinds:", *KINDS, "", "jobs:", *JOBS]))
        return
    wrong, until = 0, time.monotonic() + 60 * (args.minutes or float("inf"))
    with tempfile.TemporaryDirectory(prefix="omniq-faults-") as folder:
        place = Place(Path(folder), args.model, args.text)
        disks = shutil.which("mount") is not None and can_mount(place.folder("mountable"))
        for kind, job, count in cases(args):
            known = {key: str(value) for key, value in identity(kind, job, count, args).items()}
            if any(known.items() <= row.items() for row in done(args.csv)):
                continue
            if time.monotonic() > until:
                print("the time is over; the same command goes on")
                break
            if kind == "full disk" and not disks:
                print(f"{kind}, {job}: not tried, since no disk can be mounted here")
                continue
            row, found = row_of(place, kind, job, count, args)
            append_rows(args.csv, [row])
            wrong += len(found)
            print(", ".join(f"{key} {row[key]}" for key in [*row][:14]), flush=True)
            for sentence in found:
                print(f"    WRONG: {sentence}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
