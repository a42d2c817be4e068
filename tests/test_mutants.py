"""The list of faults that benchmarks/mutants.py plants stays true of the sources, and the script of its own word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import mutants  # noqa: E402
from mutant_list import FAULTS, Fault  # noqa: E402

from omniq.errors import OutputError, UsageError  # noqa: E402


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_as_valid_python_and_has_tests(fault: Fault) -> None:
    text = fault.planted(ROOT)
    compile(text, fault.file, "exec")
    assert text != (ROOT / fault.file).read_text(encoding="utf-8")
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in fault.tests)


def test_there_are_many_faults_in_many_files_each_named_once() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30
    assert len({fault.file for fault in FAULTS}) >= 20


@pytest.mark.parametrize("old", ["no such text", "def "])
def test_a_place_that_is_gone_or_not_the_only_one_is_a_sentence(old: str) -> None:
    with pytest.raises(UsageError, match=r"omniq/grid\.py has .* times, not once"):
        Fault("x", "omniq/grid.py", old, "", ("grid",)).planted(ROOT)


def test_a_file_is_named_as_python_imports_it() -> None:
    assert mutants.name("calibrate/methods/gptq.py") == "omniq.calibrate.methods.gptq"
    assert mutants.name("omniq/grid.py") == "omniq.grid"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return mutants.copied(ROOT, tmp_path / "copy")


def test_the_copy_is_what_is_imported_and_a_fault_in_it_is_noticed_and_taken_out(copy: Path) -> None:
    whole = (copy / "omniq" / "qtensor.py").read_text()
    mutants.check_imports(copy, ["omniq/qtensor.py", "kernels/reference.py", "calibrate/stats.py"])
    fault = next(fault for fault in FAULTS if fault.name == "weight decoded with the zero point added")
    found = mutants.outcome(copy, fault)
    assert found.caught_by.startswith("test_qtensor.py::")
    assert (copy / "omniq" / "qtensor.py").read_text() == whole
    assert (ROOT / "omniq" / "qtensor.py").read_text() == whole
    harmless = Fault("x", fault.file, fault.old, fault.old, fault.tests)
    assert mutants.outcome(copy, harmless).caught_by == ""


def test_a_copy_that_is_not_imported_is_refused(copy: Path) -> None:
    (copy / "sitecustomize.py").write_text("import sys\nsys.path.remove(sys.path[0])\n")
    with pytest.raises(OutputError, match="not what is imported"):
        mutants.check_imports(copy, ["omniq/grid.py"])


def test_a_word_that_no_fault_has_ends_with_a_sentence() -> None:
    script = ROOT / "benchmarks" / "mutants.py"
    done = subprocess.run([sys.executable, script, "--only", "no such"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no fault has 'no such'" in done.stderr
