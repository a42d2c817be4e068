"""Registries: filled by the files of a package, and clear about what they do not hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniq.errors import UsageError
from omniq.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable package with an entry per file, one file that needs a missing package and one that is private."""
    folder = tmp_path / "colours_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from omniq.registry import Registry\nR = Registry('colour', __name__, ('absent_thing',))"
    )
    (folder / "red.py").write_text("from colours_of_a_test import R\nR.add('red')(1)")
    (folder / "green.py").write_text("from colours_of_a_test import R\nR.add('green')(2)")
    (folder / "special.py").write_text("import absent_thing")
    (folder / "_private.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def registry(package: str) -> Registry[int]:
    return __import__(package).R


def test_every_file_of_the_package_is_found_in_order_of_name(package: str) -> None:
    colours = registry(package)
    assert list(colours) == ["green", "red"]
    assert list(colours.items()) == [("green", 2), ("red", 1)]
    assert len(colours) == 2
    assert "red" in colours
    assert "blue" not in colours


def test_a_file_that_needs_a_missing_optional_package_is_named_with_the_reason(package: str) -> None:
    colours = registry(package)
    list(colours)
    assert colours.absent == {"special": "needs the package absent_thing, which is not installed"}


def test_a_missing_package_that_is_not_optional_is_an_error(package: str) -> None:
    colours = registry(package)
    colours.optional = ()
    with pytest.raises(ModuleNotFoundError, match="absent_thing"):
        list(colours)


def test_a_name_that_is_not_there_is_refused_with_the_nearest_and_all(package: str) -> None:
    with pytest.raises(UsageError, match=r"unknown colour 'gren'; did you mean 'green'\? Known: green, red\."):
        registry(package)["gren"]
    with pytest.raises(UsageError, match=r"unknown colour 'zzz'\. Known: green, red\."):
        registry(package)["zzz"]


def test_a_name_cannot_be_registered_twice(package: str) -> None:
    colours = registry(package)
    list(colours)
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.add("red")(3)
