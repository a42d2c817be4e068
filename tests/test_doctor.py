"""omniq doctor: what it says of an installation that is sound, and of everything that can be wrong with one."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from doubles import Rough
from packaging.requirements import Requirement

from omniq.errors import UnsupportedError
from omniq.installation import checks, kernels, machine, packages
from omniq.installation.finding import NOTE, OK, PROBLEM, Finding, ok, problem
from omniq.kernels.dispatch import KERNELS
from omniq.spec import LinearSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of its own."""
    monkeypatch.setattr(machine, "offline", lambda: True)
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "cache")


# The whole -----------------------------------------------------------------------------------------------------------


def test_a_sound_installation_has_no_problem(apart: None, omniq) -> None:
    code, out, err = omniq("doctor", "--json")
    told = json.loads(out)
    problems = [finding for finding in told["findings"] if finding["state"] == PROBLEM]
    assert (problems, told["problems"], code, err) == ([], 0, 0, "")
    names = {finding["name"] for finding in told["findings"]}
    needed = {
        "omniq",
        "python",
        "torch",
        "transformers",
        "CPU library",
        "CUDA library",
        "threads",
        "cache folder",
        "hub",
    }
    assert needed | {f"kernel {name}" for name in (*KERNELS, *KERNELS.absent)} <= names


def test_it_prints_a_line_for_each_and_what_to_do(omniq, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [ok("a", "fine"), Finding("b", NOTE, "slow [so]", "hurry"), problem("c", "broken", "mend it")]
    monkeypatch.setattr(checks, "findings", lambda: iter(found))
    code, out, _ = omniq("doctor")
    assert code == 1
    assert out.splitlines() == [
        *("ok      a: fine", "note    b: slow [so]", "        fix: hurry"),
        *("problem c: broken", "        fix: mend it"),
    ]
    assert json.loads(omniq("doctor", "--json")[1])["problems"] == 1


def test_notes_alone_are_no_failure(omniq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "findings", lambda: iter([Finding("b", NOTE, "slow", "hurry")]))
    assert omniq("doctor")[0] == 0


def test_what_a_broken_package_hides_is_left_out_and_said(apart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "broken", lambda package: "ImportError: no" if package == "torch" else None)
    found = {finding.name: finding for finding in checks.findings()}
    assert found["import torch"].state == found["further checks"].state == PROBLEM
    assert not any(name.startswith("kernel ") for name in found)


@pytest.mark.parametrize(
    "text", ["import nothing_of_that_name", "raise OSError('libx.so: cannot open')", "raise ValueError"]
)
def test_a_package_that_does_not_import_is_told_with_its_reason(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"planted_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert re.match(r"(ModuleNotFoundError|OSError|ValueError)", packages.broken(name))
    assert packages.broken("json") is None


# Packages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found", "state"),
    [
        ("torch>=2.10,<3", "2.10.0", OK),
        ("torch>=2.10,<3", "2.13.0+cpu", OK),
        ("torch>=2.10,<3", "2.14.0.dev20261101", OK),
        ("torch>=2.10,<3", "2.9.1", PROBLEM),
        ("torch>=2.10,<3", "3.0.0", PROBLEM),
        ("torch>=2.10,<3", packages.NOT_INSTALLED, PROBLEM),
    ],
)
def test_a_version_is_held_against_the_range(asked: str, found: str, state: str) -> None:
    finding = packages.dependency(Requirement(asked), found)
    assert finding.state == state
    assert (finding.fix == "pip install 'torch<3,>=2.10'") is (state == PROBLEM)


@pytest.mark.parametrize(("found", "state"), [("3.9.18", PROBLEM), ("3.10.0", OK), ("3.13.1", OK)])
def test_python_is_held_against_the_range(found: str, state: str) -> None:
    assert packages.python(">=3.10", found).state == state


@pytest.mark.parametrize(("recorded", "state"), [("0.1.0", OK), ("0.0.9", PROBLEM), (packages.NOT_INSTALLED, PROBLEM)])
def test_an_installation_of_another_version_than_its_code_is_seen(recorded: str, state: str) -> None:
    assert packages.own(recorded, "0.1.0").state == state


def test_a_folder_of_sources_taken_for_the_package_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = packages.parts("shadow")
    assert finding.state == PROBLEM
    assert "no kernels and no calibrate" in finding.said
    assert packages.parts().state == OK


@pytest.mark.parametrize(
    ("versions", "state", "said"),
    [
        ({"datasets": "5.0", "pyarrow": "20.0"}, OK, "datasets 5.0"),
        ({"datasets": "5.0", "pyarrow": packages.NOT_INSTALLED}, NOTE, "pyarrow not installed"),
        ({"datasets": "3.1", "pyarrow": "20.0"}, PROBLEM, "datasets 3.1, and omniq needs >=4"),
    ],
)
def test_an_extra_may_be_missing_but_not_too_old(versions: dict[str, str], state: str, said: str) -> None:
    finding = packages.extra("data", (Requirement("datasets>=4"), Requirement("pyarrow>=18")), versions)
    assert finding.state == state
    assert said in finding.said


def test_every_extra_for_users_is_described() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)[1]
    extras = set(re.findall(r"^([\w-]+) = ", block, re.MULTILINE))
    assert set(packages.EXTRAS) == extras - {"demo", "test", "dev", "all"}


# What computes -------------------------------------------------------------------------------------------------------


class Failing(Rough):
    """A kernel that breaks when it is called."""

    def apply(self, x, packed, spec) -> torch.Tensor:
        raise UnsupportedError("no such instruction")


class Refusing(Rough):
    """A kernel that is for other machines."""

    def refuse(self, spec, shape, device) -> str:
        return "runs on the moon only"


CPU = (torch.device("cpu"),)


@pytest.mark.parametrize("name", list(KERNELS))
def test_every_kernel_agrees_with_the_reference_or_says_why_it_is_not_for_this_machine(name: str) -> None:
    finding = kernels.tried(name, KERNELS[name], CPU)
    assert finding.state == OK
    assert finding.said.startswith(("agrees with the reference", "not for this machine: "))


@pytest.mark.parametrize(
    ("kernel", "state", "said"),
    [
        (Rough(0.0), PROBLEM, "times the error"),
        (Rough(float("nan")), PROBLEM, "inf times the error"),
        (Failing(0.0), PROBLEM, "fails: no such instruction"),
        (Refusing(0.0), OK, "runs on the moon only"),
    ],
)
def test_a_kernel_that_computes_something_else_is_a_problem(kernel: Rough, state: str, said: str) -> None:
    finding = kernels.tried("planted", kernel, CPU)
    assert finding.state == state
    assert said in finding.said


def test_a_weight_off_by_one_step_is_more_than_the_rule_allows() -> None:
    class Off:
        """The reference, with one code of the weight changed by one."""

        approximate = False

        def prepack(self, q, spec) -> dict[str, torch.Tensor]:
            packed = KERNELS["reference"].prepack(q, spec)
            packed["codes"] = packed["codes"].clone()
            packed["codes"][3, 5] ^= 1
            return packed

        def apply(self, x, packed, spec) -> torch.Tensor:
            return KERNELS["reference"].apply(x, packed, spec)

    for scheme in kernels.SCHEMES:
        assert kernels.excess(Off(), LinearSpec.parse(scheme), CPU[0]) > 10


@pytest.mark.parametrize(
    ("missing", "isa", "capability", "state"),
    [
        (None, "avx2", "AVX2", OK),
        (None, "portable", "DEFAULT", OK),
        (None, "portable", "AVX2", NOTE),
        ("the CPU library was not built", None, "AVX2", PROBLEM),
    ],
)
def test_the_cpu_library_is_there_for_the_instructions_of_the_processor(
    missing: str | None, isa: str | None, capability: str, state: str
) -> None:
    assert kernels.cpu_library(missing, isa, capability).state == state


@pytest.mark.parametrize(
    ("missing", "seen", "has_gpu", "built", "state", "said"),
    [
        ("not built", 0, False, None, OK, "not needed"),
        ("not built", 0, True, None, PROBLEM, "a build for CPUs"),
        (None, 0, True, "13.0", PROBLEM, "built for CUDA 13.0"),
        ("not built", 1, True, "13.0", NOTE, "not built"),
        (None, 2, True, "13.0", OK, "2 GPUs"),
    ],
)
def test_the_cuda_library_is_asked_for_where_there_is_a_gpu(
    missing: str | None, seen: int, has_gpu: bool, built: str | None, state: str, said: str
) -> None:
    finding = kernels.cuda(missing, seen, has_gpu, built)
    assert finding.state == state
    assert said in finding.said


def test_a_library_older_than_its_sources_is_seen(tmp_path: Path) -> None:
    library, source = tmp_path / "_cpu.so", tmp_path / "a.cpp"
    for path in (library, source):
        path.write_text("")
    now = time.time()
    os.utime(library, (now, now))
    os.utime(source, (now + 60, now + 60))
    assert kernels.stale(library, [source]).state == NOTE
    assert kernels.stale(library, []) is None
    assert kernels.stale(None, [source]) is None


@pytest.mark.parametrize(("has_gpu", "state"), [(True, NOTE), (False, OK)])
def test_triton_is_missed_where_there_is_a_gpu(has_gpu: bool, state: str) -> None:
    assert kernels.absent("triton_thing", "needs the package triton", has_gpu).state == state


# The machine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "there", "state"), [(2, 2, OK), (8, 16, OK), (1, 1, OK), (8, 2, NOTE), (1, 2, NOTE), (3, 16, NOTE)]
)
def test_threads_are_held_against_processors(used: int, there: int, state: str) -> None:
    finding = machine.threads(used, there)
    assert finding.state == state


def test_a_container_s_share_of_the_processors_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for text, there in (("max 100000", 16), ("150000 100000", 2), ("50000 100000", 1)):
        monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert machine.cores() == there


MAPPED = """7f00-7f01 r-xp 00000000 08:01 1    /env/lib/torch/lib/libgomp.so.1
7f01-7f02 r--p 00000000 08:01 1    /env/lib/torch/lib/libgomp.so.1
7f02-7f03 r-xp 00000000 08:01 2    /env/lib/libiomp5.so
7f03-7f04 r-xp 00000000 08:01 3    /env/scikit_learn.libs/libgomp-a34b3233.so.1.0.0
7f04-7f05 r-xp 00000000 08:01 4    /env/lib/libompi.notes
7f05-7f06 rw-p 00000000 00:00 0    [heap]"""


def test_two_openmp_runtimes_in_one_process_are_seen() -> None:
    found = machine.openmp_runtimes(MAPPED.splitlines())
    assert [Path(path).name for path in found] == ["libiomp5.so", "libgomp.so.1", "libgomp-a34b3233.so.1.0.0"]
    assert machine.openmp(found).state == NOTE
    assert machine.openmp(found[:1]).state == machine.openmp([]).state == OK


@pytest.mark.parametrize(("free", "state"), [(64 << 30, OK), (1 << 30, NOTE)])
def test_little_memory_is_noted(free: int, state: str) -> None:
    assert machine.memory(free).state == state


@pytest.mark.parametrize(("free", "state"), [(50 << 30, OK), (1 << 30, NOTE), (1 << 20, PROBLEM)])
def test_little_room_for_the_cache_is_seen(
    free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert machine.cache(tmp_path / "new").state == state


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = machine.cache(tmp_path / "file" / "omniq")
    assert finding.state == PROBLEM
    assert "HF_HOME" in finding.fix


def test_the_hub_is_asked_unless_it_is_switched_off() -> None:
    asked = []
    assert machine.hub(True, lambda: asked.append(True)).state == OK
    assert asked == []

    def unreachable() -> None:
        raise machine.TRANSPORT("no route")

    assert machine.hub(False, unreachable).state == NOTE
    assert machine.hub(False, lambda: asked.append(True)).state == OK
    assert asked == [True]
