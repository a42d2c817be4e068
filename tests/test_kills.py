"""Runs that are killed, starved and lied to, a little of it: each ends with the same bits, or with one sentence.

The kinds are those of fault_kinds.py; benchmarks/faults.py tries all of them, on every preset and at length.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest
from fault_kinds import KINDS, kills
from fault_places import JOBS, Place, Tally
from kills import SIGNALS, START, Ended, Moment, Moments, Touch, stage_after

from omniq.cli.interruption import Interruption

pytestmark = pytest.mark.skipif(not os.path.exists("/proc"), reason="children are followed as Linux has them")
QUICK = (
    "failing reads",
    "short reads",
    "flips in the state",
    "flips in the input",
    "flips before reading back",
    "two jobs",
    "read-only work folder",
)
"""Kinds that take neither long waits nor the rights of the superuser."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize(("job", "seed"), [("default", 2), ("export gptq", 3)])
def test_a_run_that_is_killed_at_any_moment_goes_on_and_ends_with_the_same_bits(
    job: str, seed: int, place: Place
) -> None:
    tally = kills(place, JOBS[job], 3, Random(seed))
    assert tally.wrong == []
    assert (tally.faults, tally.redone) == (3, 0)
    assert tally.identical


@pytest.mark.parametrize("kind", QUICK)
def test_a_fault_ends_in_a_sentence_or_changes_nothing(kind: str, place: Place) -> None:
    tally = KINDS[kind](place, JOBS["gptq"], 1, Random(5))
    assert tally.wrong == []
    assert tally.faults == 1
    assert tally.identical


def test_other_bits_lost_work_and_wrong_codes_are_noticed(place: Place) -> None:
    job = JOBS["gptq"]
    place.whole(job)
    place.runs.run(job.command(place.root))
    file = place.root / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    tally = Tally()
    place.over(job, tally, Ended(0, "", (), (), None, 1.0))
    place.over(job, tally, Ended(7, "omniq: the disk is full\n", (), (), None, 1.0))
    place.stopped(
        job, tally, Ended(1, "Traceback\nKeyboardInterrupt\n", (), (), 0.1, 1.0), Moment("", 1, 0.0, SIGNALS[1])
    )
    place.refused(job, tally, Ended(7, "note\nTraceback\nomniq: no\n", (), (), None, 1.0), (7,))
    place.refused(job, tally, Ended(3, "omniq: no\n", (), (), None, 1.0), (7,))
    assert len(tally.wrong) == 5
    assert not tally.identical


def test_equal_seeds_draw_equal_moments_in_every_stage() -> None:
    names = [
        "model/config.json",
        ".out.omniq/lock",
        ".out.omniq/.run.json.tmp",
        ".out.omniq/.block-00000.safetensors.tmp",
    ]
    touches = tuple(Touch("open", "w" if ".omniq" in name else "r", name, float(at)) for at, name in enumerate(names))
    found = []
    for touch in touches:
        found.append(stage_after(touch, found[-1] if found else START))
    whole = Ended(0, "", touches, tuple(found), None, 5.0)
    draws = [[Moments(whole, Random(seed)).draw() for _ in range(9)] for seed in (1, 1, 2)]
    drawn = Moments(whole, Random(1))
    assert draws[0] == draws[1] != draws[2]
    assert {drawn.draw().stage for _ in range(50)} == {"opening", "beginning", "storing"}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of processes that would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_turns_into_another_error_is_an_interruption_still(number: int, code: int) -> None:
    said: list[str] = []

    def importing() -> None:
        with Interruption("stopped", said.append):
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                raise ImportError("a module that was being imported") from None

    with pytest.raises(SystemExit) as leaving:
        importing()
    assert (leaving.value.code, said) == (code, ["stopped"])


def test_a_second_signal_does_not_wait_for_the_first(ended: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption("stopped", lambda sentence: None):
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                continue
    assert ended == [130]
    assert capfd.readouterr().err == "omniq: stopped\n"


def test_a_command_that_ends_well_in_spite_of_a_signal_has_ended_well(tmp_path: Path) -> None:
    said: list[str] = []
    with Interruption("stopped", said.append):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            (tmp_path / "done").touch()
    assert said == []
