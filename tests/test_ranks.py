"""Several processes share the samples of a run and come to the result of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from ranked import CASES, STOPPED, TRAINED
from subjects import Tiny
from tiny import save_text, save_tiny, tokens

from omniq import pipeline
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.run import Settings
from omniq.calibrate.sensitivity import sensitivities
from omniq.checkpoint import Reader
from omniq.errors import OutputError, UsageError

SAME_CODES = 0.97
"""Share of equal codes at least: sums in another order move what lies between two codes."""
SAME_ERROR = 0.05
"""Relative difference of the error of a block."""


def start(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Two processes that share every case."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", ranked.__file__]
    return subprocess.run([*command, str(folder), *names], capture_output=True, text=True, timeout=300)


def start_unwatched(folder: Path, *names: str) -> list[tuple[int, str]]:
    """Two processes that nobody ends when one of them does: the exit code and the messages of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    command = [sys.executable, ranked.__file__, str(folder), *names]
    started = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and text, and what two processes made of them."""
    root = tmp_path_factory.mktemp("ranks")
    for name in {case[0] for case in CASES.values()}:
        save_tiny(name, root / name)
    save_text(root / "text.txt")
    done = start(root, *CASES)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture
def same_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "cache_folder", lambda: folder / "cache")


def codes(folder: Path) -> torch.Tensor:
    """Every packed weight of a checkpoint, as bits."""
    reader = Reader(folder)
    packed = [reader.read(name).view(torch.uint8).flatten() for name in reader.names() if name.endswith("packed")]
    bits = torch.cat(packed)
    return torch.stack([bits & 15, bits >> 4])


def errors(folder: Path) -> list[float]:
    """The error of each block."""
    return [block["error"] for block in json.loads((folder / "report.json").read_text())["blocks"]]


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_come_to_the_result_of_one(name: str, folder: Path, same_cache: None) -> None:
    ranked.quantise(folder, name, f"{name} alone")
    alone, two = folder / f"{name} alone", folder / f"{name} by 2"
    # Steps against the sign of a gradient go either way where it is nearly zero, and every later one after it.
    same = 0.5 if name == "many steps" else SAME_CODES
    assert float((codes(alone) == codes(two)).float().mean()) >= same
    assert errors(two) == pytest.approx(errors(alone), rel=SAME_ERROR)


@pytest.mark.parametrize("name", [*TRAINED, "experts", "many steps"])
def test_what_processes_train_together_gets_better(name: str, folder: Path) -> None:
    blocks = json.loads((folder / f"{name} by 2" / "report.json").read_text())["blocks"]
    assert min(block["loss_after"] / block["loss_before"] for block in blocks) < 0.98


@pytest.mark.parametrize(("name", "resumed_at"), [("killed", 1), ("killed when tuned", 2)])
def test_a_job_whose_process_died_goes_on_with_one(name: str, resumed_at: int, folder: Path, same_cache: None) -> None:
    (died, _), (ended, said) = start_unwatched(folder, name)
    assert died == 9
    assert ended == 1
    assert "another process of this job has gone" in said
    assert not (folder / name).exists()
    notices = []
    ranked.quantise(folder, STOPPED[name][0], name, on_event=notices.append)
    assert any("made by 2 processes" in str(event) for event in notices)
    assert json.loads((folder / name / "report.json").read_text())["resumed_at"] == resumed_at
    assert float((codes(folder / name) == codes(folder / f"{STOPPED[name][0]} by 2")).float().mean()) >= SAME_CODES


@pytest.mark.parametrize(("batch", "preset", "word"), [(3, "gptq", "--batch-size 2"), (2, "rtn", "start one")])
def test_work_that_processes_cannot_share_is_refused(
    batch: int, preset: str, word: str, folder: Path, tmp_path: Path
) -> None:
    settings = ranked.Recipe(
        ranked.LinearSpec.parse("W4A16g16"), preset, {}, ranked.recipe(folder, "gptq").data, batch_size=batch
    )
    with pytest.raises(UsageError, match=word):
        pipeline.quantize(str(folder / "llama"), tmp_path / "out", settings, ranks=Ranks(0, 2))


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="3 processes cannot share 2 samples"):
        Ranks(0, 3).sliced(tokens(2, 8))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_sample_belongs_to_one_process(count: int) -> None:
    ids, ranks = torch.arange(11).unsqueeze(1), [Ranks(index, count) for index in range(count)]
    held = [rank.sliced(ids) for rank in ranks]
    assert sorted(torch.cat(held).flatten().tolist()) == list(range(11))
    for rows in (torch.tensor([0, 3, 10]), torch.arange(11)):
        found = torch.cat([own[rank.own(rows)] for own, rank in zip(held, ranks, strict=True)])
        assert sorted(found.flatten().tolist()) == rows.tolist()
    for first in range(12):
        assert sum(rank.share(first) for rank in ranks) == first


def test_alone_everything_is_as_it_was_given() -> None:
    value = torch.ones(3)
    assert ALONE.sums([value, None]) == [value, None]
    assert ALONE.gathered("a") == ["a"]
    assert ALONE.told(1) == 1
    assert ALONE.mean(6.0, 4.0) == 1.5
    with pytest.raises(OutputError, match="own words"):
        ALONE.by_first(lambda: (_ for _ in ()).throw(OutputError("own words")))


def test_sensitivity_is_one_process_work() -> None:
    tiny = Tiny("llama", "W4A16g16")
    grids = [tiny.spec.weight]
    found = [sensitivities(tiny.subject, tokens(2, 8), Settings(ranks=ranks), grids) for ranks in (ALONE, Ranks(0, 2))]
    assert found[0] == found[1]
