"""Options and fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
