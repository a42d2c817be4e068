"""Everything that needs a GPU, in one call of at most eight minutes, without a network.

    python benchmarks/gpu_check.py --out OUT

Builds omniq in place, checks every kernel that runs on the GPU (gpu_numerics.py: error, determinism, CUDA graphs,
streams) while compute-sanitizer runs small cases, then measures speed on the otherwise idle GPU (gpu_speed.py). In OUT:
gpu_stages.csv (what ran, how it ended), gpu_numerics.csv, gpu_kernels.csv, gpu_check.log (all output).

Every stage is a process of its own and every row is written as it comes: what crashes or runs out of time loses
nothing that came before, and goes on after the item it died of. Ends with 0 when all went well; 1 when something
failed; 2 when nothing failed but time ran out; 3 when there is no GPU.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OK, FAILED, CUT, LEFT_OUT = "ok", "failed", "cut short", "left out"
EXIT = {FAILED: 1, CUT: 2}
NO_GPU = 3
SHARDS = 10
MOST_RESTARTS = 6
ITEM = re.compile(r"^item (\d+)\b", re.M)
"""What a child prints before each thing it does, so that a new one can go on after it."""
SANITIZER_REFUSED = ("Device not supported", "requires root", "Unable to find", "not supported on")


@dataclass(frozen=True)
class Stage:
    """A command and how long it may take; restart: it understands `--start ITEM`."""

    name: str
    command: tuple[str, ...]
    seconds: float
    restart: bool = False
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: state, seconds, and its last words."""

    name: str
    state: str
    seconds: float
    words: str


class Record:
    """The folder OUT: the log, and one row for every stage."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.facts = folder, facts
        self.outcomes: list[Outcome] = []

    def add(self, outcome: Outcome, output: str) -> Outcome:
        """Writes a row, the output, and says so."""
        self.outcomes.append(outcome)
        with (self.folder / "gpu_check.log").open("a", encoding="utf-8") as log:
            log.write(f"\n===== {outcome.name}: {outcome.state} after {outcome.seconds} s\n{output}\n")
        append_rows(self.folder / "gpu_stages.csv", [vars(outcome) | self.facts])
        print(f"{outcome.name:24} {outcome.state:10} {outcome.seconds:7.1f} s  {outcome.words}", flush=True)
        return outcome

    def code(self) -> int:
        """The exit code: that of the worst outcome."""
        states = {outcome.state for outcome in self.outcomes}
        return next((code for state, code in EXIT.items() if state in states), 0)


def append_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to a CSV file, complete after every call."""
    new = not file.is_file()
    with file.open("a", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def run_once(stage: Stage, seconds: float) -> tuple[str, str]:
    """Runs the command -> (state, output); what it started ends with it."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"} | dict(stage.environment)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(stage.command, cwd=HERE, env=environment, start_new_session=True, **streams) as process:
        try:
            output, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return CUT, process.communicate()[0]
    return OK if process.returncode == 0 else FAILED, output


def run(stage: Stage, record: Record) -> Outcome:
    """Runs a stage, again after the item it died of where it can go on; its outcome is recorded."""
    began, outputs, start, state = time.monotonic(), [], 0, OK
    for _ in range(MOST_RESTARTS):
        command = (*stage.command, "--start", str(start)) if stage.restart else stage.command
        ended, output = run_once(replace(stage, command=command), stage.seconds - (time.monotonic() - began))
        outputs.append(output)
        state = FAILED if FAILED in (state, ended) else ended
        items = ITEM.findall(output)
        if ended != FAILED or not stage.restart or not items or "finished all items" in output:
            break
        start = int(items[-1]) + 1
    text = "\n".join(outputs)
    words = (text.strip().splitlines() or ["(no output)"])[-1][:160]
    return record.add(Outcome(stage.name, state, round(time.monotonic() - began, 1), words), text)


def build(record: Record, seconds: float) -> dict[str, str]:
    """Makes omniq importable, built in place; what to add to the environment of those who import it."""
    install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", str(ROOT))
    if run(Stage("build (pip)", (sys.executable, *install), seconds), record).state == OK:
        return {}
    # Without a fitting scikit-build-core: CMake alone, and links that give the installed layout.
    folder = Path(tempfile.mkdtemp(prefix="omniq-"))
    configure = f"cmake -S '{ROOT}' -B '{folder}' -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX='{folder}/install'"
    script = f"{configure} && cmake --build '{folder}' -j 16 && cmake --install '{folder}'"
    run(Stage("build (cmake)", ("bash", "-c", script), seconds), record)
    package = folder / "path" / "omniq"
    for source, target in ((ROOT / "omniq", package), (ROOT / "kernels", package / "kernels")):
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            if entry.name != "csrc":
                (target / entry.name).symlink_to(entry)
    (package / "calibrate").symlink_to(ROOT / "calibrate")
    for library in (folder / "install" / "omniq" / "kernels").glob("*.so"):
        shutil.copy(library, package / "kernels")
    return {"PYTHONPATH": str(package.parent)}


def sanitizers(small: tuple[str, ...], environment: dict[str, str], record: Record, seconds: float) -> list[Stage]:
    """compute-sanitizer's tools over the small cases; a tool that does not run here is recorded as left out."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).is_file():
        record.add(Outcome("compute-sanitizer", LEFT_OUT, 0.0, "it is not installed here"), "")
        return []
    # Torch's cache of memory would hide what lies just outside of a tensor.
    extra = tuple((environment | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}).items())
    code = "import torch; torch.ones(1, device='cuda')"
    probe = Stage("probe", (tool, sys.executable, "-c", code), 60.0, False, extra)
    state, output = run_once(probe, probe.seconds)
    if state != OK and any(words in output for words in SANITIZER_REFUSED):
        record.add(Outcome("compute-sanitizer", LEFT_OUT, 0.0, "it does not take this device"), output)
        return []
    return [
        Stage(f"sanitizer {name}", (tool, "--tool", name, "--error-exitcode", "9", *small), seconds, False, extra)
        for name in ("memcheck", "racecheck")
    ]


def merge(folder: Path) -> None:
    """One file of the shards' rows."""
    for part in sorted(folder.glob("gpu_numerics_*.csv")):
        with part.open(newline="", encoding="utf-8") as rows:
            append_rows(folder / "gpu_numerics.csv", list(csv.DictReader(rows)))
        part.unlink()


def facts_of(commit: str | None) -> dict[str, Any]:
    """GPU, versions, commit and date: the columns that every row ends with."""
    import torch

    words = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    driver = subprocess.run(words, capture_output=True, text=True).stdout.strip() if shutil.which(words[0]) else ""
    described = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    found = subprocess.run(described, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return {
        "gpu": torch.cuda.get_device_name(0),
        "capability": "{}.{}".format(*torch.cuda.get_device_capability(0)),
        "driver": driver,
        "torch": torch.__version__,
        "commit": commit or found or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def main() -> int:
    """Runs all stages; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the CSV files and the log")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything together")
    parser.add_argument("--commit", help="the commit to write down, where git cannot say")
    parser.add_argument("--skip-build", action="store_true", help="use omniq as it is installed")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes - 10
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU that torch can use here, so nothing was checked.")
        return NO_GPU
    record = Record(args.out, facts_of(args.commit))
    environment = {} if args.skip_build else build(record, 150.0)
    extra = tuple(environment.items())
    told = ("--out", str(args.out.resolve()), "--commit", record.facts["commit"])
    check = (sys.executable, str(HERE / "gpu_numerics.py"), *told)
    run(Stage("kernels present", (*check, "--present"), 60.0, False, extra), record)
    run(Stage("first calls", (*check, "--small"), 90.0, False, extra), record)
    share = 0.5 * (end - time.monotonic())
    stages = [
        Stage(f"numerics {i + 1} of {SHARDS}", (*check, "--shard", f"{i}/{SHARDS}"), share, True, extra)
        for i in range(SHARDS)
    ]
    stages += sanitizers((*check, "--small"), environment, record, share)
    with ThreadPoolExecutor(len(stages)) as pool:
        list(pool.map(lambda stage: run(stage, record), stages))
    merge(args.out)
    speed = (sys.executable, str(HERE / "gpu_speed.py"), *told)
    run(Stage("speed", speed, end - time.monotonic(), True, extra), record)
    print(f"\nWritten to {args.out}. " + ("All is well." if record.code() == 0 else "Not all is well: see above."))
    return record.code()


if __name__ == "__main__":
    sys.exit(main())
