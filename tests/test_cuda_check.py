"""benchmarks/gpu_check.py without a GPU: what it keeps when stages fail, and what its exit code says."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


@pytest.fixture
def numerics(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of the checks, made to check on the CPU."""
    import gpu_numerics

    monkeypatch.setattr(gpu_numerics, "GPU", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return gpu_numerics


def script(tmp_path: Path, text: str) -> tuple[str, ...]:
    """The command that runs this Python."""
    file = tmp_path / "child.py"
    file.write_text("import sys, time\n" + text, encoding="utf-8")
    return (sys.executable, str(file))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == "There is no GPU that torch can use here, so nothing was checked.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "seconds", "state", "code"),
    [
        ("print('fine')", 30, "ok", 0),
        ("print('broken'); sys.exit(1)", 30, "failed", 1),
        ("print('slow', flush=True); time.sleep(60)", 1, "cut short", 2),
    ],
)
def test_every_end_of_a_stage_has_a_row_a_log_and_an_exit_code(
    check: ModuleType, tmp_path: Path, text: str, seconds: float, state: str, code: int
) -> None:
    record = check.Record(tmp_path / "out", {"gpu": "none"})
    outcome = check.run(check.Stage("one", script(tmp_path, text), seconds), record)
    assert outcome.state == state
    assert record.code() == code
    (row,) = rows(tmp_path / "out" / "gpu_stages.csv")
    assert (row["name"], row["state"], row["gpu"]) == ("one", state, "none")
    assert outcome.words in (tmp_path / "out" / "gpu_check.log").read_text(encoding="utf-8")


def test_a_failure_counts_for_more_than_what_was_cut_short(check: ModuleType, tmp_path: Path) -> None:
    record = check.Record(tmp_path, {})
    for state, code in (("ok", 0), ("left out", 0), ("cut short", 2), ("failed", 1), ("ok", 1)):
        record.add(check.Outcome("one", state, 0.0, ""), "")
        assert record.code() == code


DIES = """
start = int(sys.argv[-1])
for item in range(start, 5):
    print(f"item {item} of 5", flush=True)
    if item in (1, 3):
        sys.exit(9)
    open("done", "a").write(str(item))
print("finished all items")
"""


def test_a_stage_goes_on_after_the_item_it_died_of(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "HERE", tmp_path)
    outcome = check.run(check.Stage("one", script(tmp_path, DIES), 60, restart=True), check.Record(tmp_path, {}))
    assert (tmp_path / "done").read_text() == "024"
    assert (outcome.state, outcome.words) == ("failed", "finished all items")


def test_the_shards_become_one_file(check: ModuleType, tmp_path: Path) -> None:
    for shard in range(3):
        check.append_rows(tmp_path / f"gpu_numerics_{shard}.csv", [{"kernel": f"k{shard}", "state": "ok"}] * 2)
    check.merge(tmp_path)
    assert [row["kernel"] for row in rows(tmp_path / "gpu_numerics.csv")] == ["k0", "k0", "k1", "k1", "k2", "k2"]
    assert [file.name for file in tmp_path.iterdir()] == ["gpu_numerics.csv"]


@pytest.mark.parametrize("scheme", ["W4A16", "W3A16g32-asym", "W4A4g128"])
def test_the_checks_pass_for_a_kernel_that_is_right(numerics: ModuleType, scheme: str) -> None:
    row = numerics.checked(numerics.Item("reference", scheme, "bfloat16"), small=True)
    assert (row["state"], row["words"]) == ("ok", "")
    assert row["cases"] >= 3
    assert 0 < float(row["worst_ratio"]) <= 1


def test_the_checks_fail_for_a_kernel_that_is_wrong(numerics: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Off:
        approximate = False

        def refuse(self, spec: object, shape: object, device: object) -> None:
            return None

        def prepack(self, q: object, spec: object) -> dict[str, torch.Tensor]:
            return {"weight": q.dequantize() * 1.01}

        def apply(self, x: torch.Tensor, packed: dict[str, torch.Tensor], spec: object) -> torch.Tensor:
            return (x.float() @ packed["weight"].T).to(x.dtype)

    monkeypatch.setattr(numerics, "KERNELS", {"off": Off()})
    row = numerics.checked(numerics.Item("off", "W4A16g128", "float16"), small=True)
    assert row["state"] == "failed"
    assert "times the allowed error" in row["words"]


def test_every_scheme_that_is_checked_parses(numerics: ModuleType) -> None:
    chosen = numerics.items(small=False)
    assert {item.dtype for item in chosen} == set(numerics.DTYPES)
    assert all(str(numerics.LinearSpec.parse(item.scheme)) == item.scheme for item in chosen)
    assert {"cuda_wna16", "cuda_w4a4"} <= {item.kernel for item in chosen}
