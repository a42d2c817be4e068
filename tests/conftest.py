"""Options and fixtures for every test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import save_text, save_tiny

from omniq import pipeline
from omniq.cli import app
from omniq.kernels.native import cpu_isa, cpu_library

DATA_VARIABLE = "OMNIQ_TEST_DATA"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--data FOLDER: real texts for the tests that measure on them."""
    parser.addoption("--data", default=None, help=f"folder with wikitext-2 and tofu (or the variable {DATA_VARIABLE})")


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real texts; tests that need it are skipped where it is not given."""
    given = request.config.getoption("--data") or os.environ.get(DATA_VARIABLE)
    if not given:
        pytest.skip(f"needs real texts: give --data FOLDER or set {DATA_VARIABLE}")
    if not Path(given).is_dir():
        pytest.fail(f"--data {given} is not a folder")
    return Path(given)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text to calibrate on."""
    return save_text(tmp_path / "calibration.txt")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs keep what they may keep for later ones inside the test's own folder."""
    monkeypatch.setattr(pipeline, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with nothing wrong."""
    return save_tiny("llama", tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def use_isa() -> Iterator[Callable[[str], None]]:
    """Switches the CPU library's instruction set for one test; skips where the processor lacks it."""
    library, widest = cpu_library()[0], cpu_isa()

    def use(name: str) -> None:
        if library.omniq_cpu_use_isa(name.encode()):
            pytest.skip(f"this processor lacks {name}")

    yield use
    assert library.omniq_cpu_use_isa(widest.encode()) == 0


@pytest.fixture
def omniq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs a command line: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            app.main(words)
        return (leaving.value.code or 0, *capsys.readouterr())

    return run
