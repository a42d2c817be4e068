"""A few hundred damaged files of every kind omniq reads: each is read, or refused in a sentence, in bounds."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from confined import confined
from damage import CHANGES, changed
from hostile import KNOWLEDGE, Case, schemes, targets

from omniq.errors import ModelError
from omniq.formats.base import FORMATS
from omniq.knowledge.source import SOURCES
from omniq.text import READERS

CASES = 10
SLOW = ("resume", "dense-quantise")
"""Each of their cases is a run of its own; benchmarks/fuzz.py has more of them."""


@pytest.mark.parametrize("name", [*targets()])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    count = 3 if name in SLOW else CASES
    found = [*confined(Case(name, tmp_path), range(count))]
    assert [outcome for outcome in found if not outcome.good] == []
    assert len(found) == count


def test_every_format_source_and_kind_of_text_is_a_target() -> None:
    names = set(targets())
    assert {f"checkpoint-{form}-{scheme}" for form in FORMATS for scheme in schemes(form)} <= names
    assert {f"knowledge-{name}" for name, source in SOURCES.items() if source.needed} <= names
    assert {f"text{suffix}" for suffix in READERS} <= names
    assert set(KNOWLEDGE) <= set(SOURCES)


def test_equal_seeds_do_equal_damage_and_others_other(tmp_path: Path) -> None:
    case = Case("safetensors", tmp_path)
    file = case.place / "model.safetensors"

    def damaged(seed: int) -> bytes:
        case(seed)
        return file.read_bytes()

    assert damaged(3) == damaged(3)
    assert len({damaged(seed) for seed in range(20)}) > 15


@pytest.mark.parametrize("suffix", [*CHANGES, ".txt"])
def test_damage_changes_nearly_every_file(suffix: str) -> None:
    raw = b'{"a": [1, {"b": "c"}], "d": 2.5}\n'
    outcomes = Counter(changed(f"file{suffix}", raw, Random(seed)) == raw for seed in range(200))
    assert outcomes[False] > 150


class Crash(Exception):
    """What no reader may raise."""


def _raise() -> None:
    raise Crash


def _long() -> None:
    while True:
        pass


def _large() -> None:
    len(b"x" * 2**29)


def _dead() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _no_words() -> None:
    raise ModelError("")


FAULTS = {
    "Crash in": _raise,
    "hangs in": _long,
    "memory": _large,
    "died": _dead,
    "no sentence": _no_words,
    "ok": lambda: None,
}


def test_every_way_to_fail_is_told_apart_and_the_next_case_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confined.SECONDS", 3.0)
    calls = [*FAULTS.values()]
    found = [outcome.kind for outcome in confined(lambda seed: (100, calls[seed]), range(len(calls)))]
    assert [kind[: len(wanted)] for kind, wanted in zip(found, FAULTS, strict=True)] == [*FAULTS]
