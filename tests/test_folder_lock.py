"""The lock of a folder: one holder at a time, and none of a file that has gone."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from omniq.folder_lock import taken


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    first = taken(path)
    assert first is not None
    assert taken(path) is None
    first.close()
    again = taken(path)
    assert again is not None
    again.close()


def test_the_lock_of_a_file_that_its_holder_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"

    def removed_meanwhile(*_: object) -> None:
        path.unlink()

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    assert taken(path) is None


def test_the_lock_of_a_file_made_anew_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"

    def replaced_meanwhile(*_: object) -> None:
        path.rename(tmp_path / "old")
        path.touch()

    monkeypatch.setattr(fcntl, "flock", replaced_meanwhile)
    assert taken(path) is None
