"""Plants a fault in the core numerics, one at a time, and says which test notices it.

    python benchmarks/mutants.py                   all faults of mutant_list.py, and results/mutants.csv
    python benchmarks/mutants.py --only GPTQ gguf  those with one of these in name or file; other rows stay

The sources are copied to a temporary folder, and tests are run there, on the copy: your files are never touched. First
the tests run as they are; then every fault runs the test files that should notice it, up to the first that fails. The
exit code is 1 when a fault survives: then a test is missing; and when a test fails without any.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from mutant_list import FAULTS, Fault

from omniq.bench.facts import append_rows, facts
from omniq.errors import OmniqError, OutputError
from omniq.kernels.native import LIBRARY
from omniq.kernels.shared_library import library_path

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "mutants.csv"
COPIED = ("omniq", "kernels", "calibrate", "tests", "benchmarks", "docs")
INSIDE = ("kernels", "calibrate")
"""Folders that are packages inside omniq once it is installed."""
PATIENCE = 900
"""Seconds after which tests that still run have noticed something."""

UNINSTALLED = '''"""Lets the copy of omniq in this folder be imported where an editable install would come first."""

import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
'''


@dataclass(frozen=True)
class Outcome:
    """What became of a fault. caught_by: the test that failed first; '' where none did."""

    fault: Fault
    caught_by: str
    seconds: float

    def row(self) -> dict[str, str | float]:
        """As the CSV has it."""
        return {
            "fault": self.fault.name,
            "file": self.fault.file,
            "old": self.fault.old.strip(),
            "new": self.fault.new.strip(),
            "caught": bool(self.caught_by),
            "caught_by": self.caught_by,
            "seconds": round(self.seconds, 1),
        }


def copied(root: Path, copy: Path) -> Path:
    """Copies the sources of `root` and the compiled library to `copy`, such that they are imported from there."""
    for name in COPIED:
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results", "csrc"))
    shutil.copy(root / "pyproject.toml", copy)
    for name in INSIDE:
        (copy / "omniq" / name).symlink_to(copy / name)
    if (library := library_path(LIBRARY)) is not None:
        shutil.copy(library, copy / "kernels")
    (copy / "sitecustomize.py").write_text(UNINSTALLED, encoding="utf-8")
    return copy


def environment(copy: Path) -> dict[str, str]:
    """Variables under which Python imports the copy, and keeps no compiled files that a fault could be missed by."""
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def check_imports(copy: Path, files: Iterable[str]) -> None:
    """OutputError unless each of these files is what Python imports in the copy."""
    names = sorted({name(file) for file in files})
    code = f"import importlib, os\nfor n in {names}: print(os.path.realpath(importlib.import_module(n).__file__))"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, cwd=copy.parent, env=environment(copy), capture_output=True, text=True)
    strange = [line for line in found.stdout.splitlines() if not Path(line).is_relative_to(copy.resolve())]
    if found.returncode or strange:
        raise OutputError(f"the copy in {copy} is not what is imported: {strange or found.stderr.strip()}")


def name(file: str) -> str:
    """'calibrate/stats.py' -> 'omniq.calibrate.stats'."""
    module = file.removesuffix(".py").replace("/", ".")
    return f"omniq.{module}" if file.split("/")[0] in INSIDE else module


def failures(copy: Path, tests: Iterable[str], *options: str) -> list[str]:
    """Runs test files of the copy: the tests that fail, as pytest names them."""
    files = [str(copy / "tests" / f"test_{one}.py") for one in tests]
    words = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
    words += ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy), *options, *files]
    try:
        done = subprocess.run(words, cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [f"no end within {PATIENCE} s"]
    found = re.findall(r"^(?:FAILED|ERROR) (\S+test_\w+\.py(?:::.+?)?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode and not found:
        raise OutputError(f"pytest ended with {done.returncode} and named no test: {done.stdout[-2000:]}{done.stderr}")
    return found


def outcome(copy: Path, fault: Fault, broken: Iterable[str] = ()) -> Outcome:
    """Plants a fault in the copy, runs its tests up to the first that fails, and takes it out again.

    broken: tests that fail without it, and so can notice nothing.
    """
    path, began = copy / fault.file, time.perf_counter()
    whole = path.read_text(encoding="utf-8")
    path.write_text(fault.planted(copy), encoding="utf-8")
    try:
        found = failures(copy, fault.tests, "-x", *(f"--deselect={test}" for test in broken))
        return Outcome(fault, "".join(found[:1]).rpartition("/")[2], time.perf_counter() - began)
    finally:
        path.write_text(whole, encoding="utf-8")


def outcomes(copy: Path, faults: list[Fault]) -> tuple[list[Outcome], list[str]]:
    """Every fault's, printed as it comes, and the tests that fail without any."""
    check_imports(copy, (fault.file for fault in faults))
    tests = sorted({test for fault in faults for test in fault.tests})
    print(f"{len(faults)} faults; first the {len(tests)} test files without any", flush=True)
    broken = failures(copy, tests)
    for test in broken:
        print(f"left out, since it fails without any fault: {test}", flush=True)
    found = []
    for fault in faults:
        found.append(outcome(copy, fault, broken))
        told = found[-1].caught_by or "SURVIVED"
        print(f"{fault.file:36s} {fault.name:52s} {told}  ({found[-1].seconds:.0f} s)", flush=True)
    return found, broken


def keep(found: list[Outcome]) -> None:
    """Puts what was found into the CSV, in the order of FAULTS; rows of faults that are listed no more go."""
    made_by, rows = facts(torch.device("cpu"), "wall"), {}
    if CSV.is_file():
        with CSV.open(newline="", encoding="utf-8") as file:
            rows = {row["fault"]: row for row in csv.DictReader(file)}
    rows |= {one.fault.name: {**one.row(), **made_by} for one in found}
    CSV.unlink(missing_ok=True)
    append_rows(CSV, (rows[fault.name] for fault in FAULTS if fault.name in rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="only faults with one of these in name or file")
    return parser.parse_args()


def main() -> None:
    """Plants what was asked for, and prints and keeps what came of it."""
    only = arguments().only
    faults = [fault for fault in FAULTS if only is None or any(one in fault.name or one in fault.file for one in only)]
    if not faults:
        sys.exit(f"no fault has {', '.join(map(repr, only))} in its name or file")
    with tempfile.TemporaryDirectory(prefix="omniq-mutants-") as folder:
        try:
            found, broken = outcomes(copied(ROOT, Path(folder) / "copy"), faults)
        except OmniqError as error:
            sys.exit(str(error))
    survived = [one.fault.name for one in found if not one.caught_by]
    print(f"{len(found) - len(survived)} of {len(found)} faults were noticed")
    keep(found)
    if survived:
        sys.exit(f"not noticed: {'; '.join(survived)}: write the test that is missing")
    if broken:
        sys.exit(f"{len(broken)} tests fail without any fault; mend them first")


if __name__ == "__main__":
    main()
