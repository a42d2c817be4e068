"""What an install does about CUDA: left out without nvcc or where asked, and never in the way of the rest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "kernels" / "csrc" / "cuda"
PROJECT = """
cmake_minimum_required(VERSION 3.24...4.0)
project(only_cuda LANGUAGES NONE)
include(CheckLanguage)
add_subdirectory(cuda)
file(WRITE ${CMAKE_BINARY_DIR}/other "the rest")
install(FILES ${CMAKE_BINARY_DIR}/other DESTINATION omniq/kernels)
"""
TOOLS = ("cmake", "ninja", "make", "sh", "uname", "c++", "g++", "cc", "as", "ld")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of nothing but the CUDA library."""
    if not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("needs cmake and ninja on PATH")
    shutil.copytree(SOURCES, tmp_path / "cuda")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT, encoding="utf-8")
    return tmp_path


def run(*command: str, path: str | None = None) -> tuple[int, str]:
    """(exit status, output) of a command with PATH=`path`, if given."""
    environment = {"PATH": path} if path else None
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def configured(project: Path, *options: str, path: str | None = None) -> tuple[int, str]:
    """(exit status, output) of configuring."""
    cmake, build = shutil.which("cmake"), str(project / "build")
    return run(cmake, "-S", str(project), "-B", build, "-G", "Ninja", *options, path=path)


def installed(project: Path) -> tuple[int, str, set[str]]:
    """(exit status, output, installed files) of building and installing what was configured."""
    build, target = str(project / "build"), project / "target"
    status, said = run("cmake", "--build", build)
    if status == 0:
        status, more = run("cmake", "--install", build, "--prefix", str(target))
        said += more
    return status, said, {file.name for file in target.rglob("*") if file.is_file()}


def test_without_nvcc_the_library_is_left_out_with_a_message(project: Path) -> None:
    tools = project / "tools"
    tools.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    status, said = configured(project, path=str(tools))
    assert status == 0, said
    assert "no CUDA compiler (nvcc) that works; the CUDA library is left out" in said
    assert installed(project)[2] == {"other"}


def test_a_required_library_without_nvcc_is_an_error(project: Path) -> None:
    tools = project / "tools"
    tools.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    status, said = configured(project, "-DOMNIQ_CUDA=ON", path=str(tools))
    assert status != 0
    assert "OMNIQ_CUDA is ON, but there is no CUDA compiler" in said


def test_it_can_be_switched_off(project: Path) -> None:
    status, said = configured(project, "-DOMNIQ_CUDA=OFF")
    assert status == 0, said
    assert "OMNIQ_CUDA is OFF" in said
    assert installed(project)[2] == {"other"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc on PATH")
@pytest.mark.parametrize(("required", "succeeds"), [("AUTO", True), ("ON", False)])
def test_sources_that_do_not_compile_stop_the_install_only_where_required(
    project: Path, required: str, succeeds: bool
) -> None:
    for source in (project / "cuda" / "library").glob("*.cu"):
        source.write_text("this is not CUDA\n", encoding="utf-8")
    status, said = configured(project, f"-DOMNIQ_CUDA={required}")
    assert status == 0, said
    status, said, files = installed(project)
    assert (status == 0) is succeeds
    assert "the CUDA library does not build" in said
    assert files == ({"other"} if succeeds else set())
