"""The compiled CPU library as a file: what it exports and needs, and which instructions its parts hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cpu_subjects import needs_library

from omniq.kernels import cpu, native
from omniq.kernels.dispatch import KERNELS, refusals, select
from omniq.spec import LinearSpec

ROOT = Path(__file__).resolve().parent.parent
WIDE = {"kernels_avx2": "omniq::kAvx2", "kernels_avx512vnni": "omniq::kAvx512Vnni"}
PROJECT = """cmake_minimum_required(VERSION 3.24)
project(objects LANGUAGES NONE)
include(CheckLanguage)
add_subdirectory({sources} objects)
"""
BEYOND_BASELINE = re.compile(
    r"%[yz]mm|%xmm(1[6-9]|2\d|3[01])\b|%k[0-7]\b|\t(v[a-z]|tzcnt|lzcnt|popcnt|bzhi|shlx|shrx|sarx|rorx|mulx)"
)
X86 = re.search(r"\b(avx2|sse2)\b", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None


def output_of(*command: str | Path) -> str:
    """What a command prints; the test is skipped where the command is missing."""
    if not shutil.which(str(command[0])):
        pytest.skip(f"needs {command[0]}, which is not on PATH")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def installed() -> Path:
    """The library in use."""
    if native.missing():
        pytest.skip(native.missing())
    return Path(native.cpu_library()[0]._name)


def configured(folder: Path) -> Path:
    """A build folder for the library alone, with the flags that an install uses."""
    (folder / "CMakeLists.txt").write_text(PROJECT.format(sources=ROOT / "kernels/csrc/cpu"), encoding="utf-8")
    settings = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    output_of("cmake", "-S", folder, "-B", folder / "build", *settings)
    if "CMAKE_CXX_COMPILER:" not in (folder / "build/CMakeCache.txt").read_text():
        pytest.skip("needs a C++ compiler")
    return folder / "build"


def test_the_library_exports_the_functions_that_python_calls_and_nothing_else() -> None:
    lines = output_of("nm", "-D", "--defined-only", installed()).splitlines()
    assert {line.split()[-1] for line in lines} == set(native.SIGNATURES)


def test_the_library_needs_neither_torch_nor_python_nor_openmp_nor_a_cxx_runtime() -> None:
    needed = re.findall(r"NEEDED\s+(\S+)", output_of("objdump", "-p", installed()))
    assert {name.split(".")[0] for name in needed} <= {
        "libc",
        "libm",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }


@pytest.mark.skipif(X86 is None, reason="its wide instruction sets are those of x86-64")
def test_only_files_named_after_an_instruction_set_are_compiled_for_it(tmp_path: Path) -> None:
    commands = json.loads((configured(tmp_path) / "compile_commands.json").read_text())
    flags = {Path(c["file"]).stem: re.findall(r"\s(-m\S+)", c["command"]) for c in commands}
    assert set(flags) == {path.stem for path in (ROOT / "kernels/csrc/cpu").glob("*.cpp")}
    assert all(bool(found) is (name in WIDE) for name, found in flags.items()), flags
    assert "-mavx512f" not in flags["kernels_avx2"]
    assert all("-ffp-contract=off" in c["command"] and "-ffast-math" not in c["command"] for c in commands)


@pytest.mark.slow
@pytest.mark.skipif(X86 is None, reason="its wide instruction sets are those of x86-64")
def test_no_wide_instruction_can_run_on_a_processor_without_it(tmp_path: Path) -> None:
    # A function that the linker may merge with its twin in another file could bring AVX along under a generic name.
    build = configured(tmp_path)
    output_of("cmake", "--build", build, "--target", "_cpu")
    objects = {path.name.split(".")[0]: path for path in build.rglob("*.o") if "_cpu.dir" in str(path)}
    assert set(objects) == {path.stem for path in (ROOT / "kernels/csrc/cpu").glob("*.cpp")}
    for name, path in objects.items():
        code = output_of("objdump", "-d", "--no-show-raw-insn", path)
        assert "<" in code
        assert bool(BEYOND_BASELINE.search(code)) is (name in WIDE), name
        symbols = [line.split(maxsplit=2)[1:] for line in output_of("nm", "-C", "--defined-only", path).splitlines()]
        assert not [symbol for kind, symbol in symbols if kind in "WwVvu"], name
        if name in WIDE:
            assert [symbol for kind, symbol in symbols if kind.isupper()] == [WIDE[name]]


# --- without the library


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_library", lambda: native.open_library(None))


@pytest.mark.parametrize("name", ["cpu", "cpu_int8"])
def test_without_the_library_the_kernels_say_how_to_get_it(name: str, no_library: None) -> None:
    reason = KERNELS[name].refuse(LinearSpec.parse("W4A16g32"), (64, 64), torch.device("cpu"))
    assert "not built" in reason
    assert "C++ compiler" in reason
    assert "install omniq again" in reason


def test_without_the_library_another_kernel_runs(no_library: None) -> None:
    spec = LinearSpec.parse("W4A16g32")
    assert select(spec, (64, 64), torch.device("cpu"), approximate=True) not in ("cpu", "cpu_int8")


@needs_library
def test_the_kernels_refuse_another_device_and_the_rounding_one_a_scheme_with_a_grid() -> None:
    weights, acts = LinearSpec.parse("W4A16g32"), LinearSpec.parse("W4A8g32")
    for name in ("cpu", "cpu_int8"):
        assert "CPU only" in KERNELS[name].refuse(weights, (64, 64), torch.device("cuda"))
        assert KERNELS[name].refuse(weights, (64, 64), torch.device("cpu")) is None
    assert KERNELS["cpu"].refuse(acts, (64, 64), torch.device("cpu")) is None
    assert "quantises activations itself" in KERNELS["cpu_int8"].refuse(acts, (64, 64), torch.device("cpu"))
    assert "not asked for" in refusals(weights, (64, 64), torch.device("cpu"))["cpu_int8"]
