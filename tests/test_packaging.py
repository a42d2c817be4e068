"""What is installed, from which folder, and what happens to the native library without a compiler."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import omniq
from omniq.kernels import native
from omniq.kernels.shared_library import library_path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("omniq", "kernels", "calibrate")
FILES = ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE")


def dependency(name: str) -> Requirement:
    """The line of `dependencies` in pyproject.toml for one package, found as text: tomllib is not in Python 3.10."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return Requirement(re.search(rf'"({name}[<>=][^"]*)"', text).group(1))


@pytest.mark.parametrize(
    ("name", "version", "admitted"),
    [
        ("torch", "2.10.0", True),
        ("torch", "2.11.0", True),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.9.1", False),
        ("torch", "3.0.0", False),
        ("transformers", "5.13.0", True),
        ("transformers", "5.17.0", True),
        ("transformers", "5.12.0", False),
    ],
)
def test_the_dependency_ranges_admit_what_the_project_runs_on(name: str, version: str, admitted: bool) -> None:
    assert (version in dependency(name).specifier) is admitted


def test_the_tested_combination_lies_inside_the_ranges() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    for name in ("torch", "transformers", "compressed-tensors", "accelerate"):
        assert pins[name] in dependency(name).specifier


def test_every_package_that_is_asked_for_is_listed_with_its_licence() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.search(r"^dependencies = \[.*^\[project.scripts\]", text, re.M | re.S).group(0)
    asked = {Requirement(line).name for line in re.findall(r'"([a-zA-Z_-]+(?:\[\S*\])?[<>=][^"]*)"', lists)}
    assert {"torch", "triton", "pytest"} <= asked
    listed = re.findall(r"^\| ([\w-]+)", (ROOT / "docs/licences.md").read_text(encoding="utf-8"), re.M)
    assert asked - set(listed) == set()


def test_a_tag_on_this_commit_names_the_version() -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs git and its folder")
    command = ["git", "-C", str(ROOT), "tag", "--points-at", "HEAD", "--list", "v*"]
    tags = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(tags) <= {f"v{omniq.__version__}"}


def test_no_folder_can_be_taken_for_the_package_named_kernels() -> None:
    assert [*(ROOT / "kernels").rglob("__init__.py"), *(ROOT / "calibrate").rglob("__init__.py")] == []
    assert not (ROOT / "conftest.py").exists()


@pytest.mark.parametrize("folder", ["kernels", "calibrate"])
def test_every_file_of_a_mapped_folder_is_a_module_of_omniq(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        name = ".".join(("omniq", *path.relative_to(ROOT).with_suffix("").parts))
        assert importlib.util.find_spec(name) is not None, f"{name} cannot be imported"


def test_the_native_library_is_loaded_or_the_reason_is_given() -> None:
    if native.missing() is None:
        assert native.cpu_isa() in ("avx512vnni", "avx2", "portable")
        assert native.cpu_bfloat16() in (True, False)
    else:
        assert native.cpu_isa() is None
        assert native.cpu_bfloat16() is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo to compare with")
def test_the_instruction_set_is_the_one_the_system_reports() -> None:
    if native.missing():
        pytest.skip(native.missing())
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]))
    expected = "avx512vnni" if "avx512_vnni" in flags else "avx2" if {"avx2", "fma"} <= flags else "portable"
    assert native.cpu_isa() == expected
    assert native.cpu_bfloat16() is ("avx512_bf16" in flags)


def test_an_absent_library_is_explained() -> None:
    library, reason = native.open_library(library_path(native.LIBRARY, ()))
    assert library is None
    assert "not built" in reason
    assert "install omniq again" in reason


def test_a_library_that_does_not_load_is_explained(tmp_path: Path) -> None:
    (tmp_path / native.LIBRARY).write_bytes(b"not a library")
    library, reason = native.open_library(library_path(native.LIBRARY, (str(tmp_path / "nowhere"), str(tmp_path))))
    assert library is None
    assert str(tmp_path / native.LIBRARY) in reason


def wheel_of(tree: Path, path: str = "", native: bool = True) -> dict[str, bytes]:
    """Builds a wheel of the sources in `tree`, with PATH=`path` if given: name in the wheel -> content.

    native: compile what can be compiled.
    """
    folder = tree / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q"]
    command += [] if native else ["--config-settings", "wheel.cmake=false"]
    # CUDA sources take a minute to compile, and have tests of their own (test_cuda_build.py).
    environment = {**({"PATH": path} if path else os.environ), "CMAKE_ARGS": "-DOMNIQ_CUDA=OFF"}
    done = subprocess.run([*command, "-w", str(folder), str(tree)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of everything a build reads, to be changed freely."""
    for package in ("pip", "scikit_build_core"):
        pytest.importorskip(package, reason=f"builds a wheel with {package}")
    if not shutil.which("cmake"):
        pytest.skip("builds a wheel with cmake, which is not on PATH")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_wheel_holds_every_module_under_omniq_and_no_native_source(tree: Path) -> None:
    names = wheel_of(tree).keys()
    sources = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert sources
    assert {name if name.startswith("omniq/") else f"omniq/{name}" for name in sources} <= names
    assert {f"omniq/recipes/{path.name}" for path in (ROOT / "omniq" / "recipes").glob("*.yaml")} <= names
    outside = {name.split("/")[0] for name in names} - {"omniq"}
    assert all(name.endswith(".dist-info") for name in outside)
    assert not [name for name in names if "csrc" in name]


def test_the_wheel_says_its_version_and_that_it_is_typed_and_holds_every_file_that_is_no_code(tree: Path) -> None:
    wheel = wheel_of(tree, native=False)
    assert "omniq/py.typed" in wheel
    data = [path.relative_to(tree).as_posix() for path in (tree / "omniq").rglob("*.yaml")]
    assert set(data) <= wheel.keys()
    (metadata,) = (content.decode() for name, content in wheel.items() if name.endswith(".dist-info/METADATA"))
    assert re.search(r"^Version: (.*)$", metadata, re.M).group(1) == omniq.__version__
    assert [name for name in wheel if name.endswith("/licenses/LICENSE")]


def test_the_source_archive_builds_the_same_wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    place = tmp_path_factory.mktemp("archive")
    done = subprocess.run([sys.executable, "-c", build, str(place)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    (unpacked,) = (path for path in place.iterdir() if path.is_dir())
    read = {path.relative_to(tree) for name in (*FOLDERS, *FILES) for path in (tree / name, *(tree / name).rglob("*"))}
    assert {path for path in read if (tree / path).is_file() and not (unpacked / path).is_file()} == set()
    assert wheel_of(unpacked, native=False) == wheel_of(tree, native=False)


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler on PATH")
def test_with_a_compiler_the_wheel_holds_the_native_library(tree: Path) -> None:
    assert "omniq/kernels/_cpu.so" in wheel_of(tree)


def test_without_a_compiler_the_wheel_is_built_without_the_native_library(tree: Path) -> None:
    tools = tree / "tools"
    tools.mkdir()
    for tool in ("cmake", "ninja", "make", "sh", "uname"):
        if shutil.which(tool):
            (tools / tool).symlink_to(shutil.which(tool))
    names = wheel_of(tree, path=str(tools))
    assert "omniq/kernels/native.py" in names
    assert "omniq/kernels/_cpu.so" not in names


def test_a_native_source_that_does_not_compile_leaves_a_pure_wheel(tree: Path) -> None:
    (tree / "kernels/csrc/cpu/capabilities.cpp").write_text("this is not C++\n", encoding="utf-8")
    names = wheel_of(tree)
    assert "omniq/kernels/native.py" in names
    assert "omniq/kernels/_cpu.so" not in names
