"""What a run holds in memory, and that it comes to the same result wherever things live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from subjects import QUICK
from tiny import save_text, save_tiny

from omniq import footprint as module
from omniq import hf, memory, pipeline
from omniq.calibrate.data import DataSpec
from omniq.calibrate.hidden import OnDisk
from omniq.calibrate.method import METHODS
from omniq.checkpoint import Reader
from omniq.costs import sizes
from omniq.errors import UsageError
from omniq.events import BlockDone, Event
from omniq.footprint import WAYS, footprint, placement
from omniq.hf import OpenModel
from omniq.memory import EVERYTHING, Budget, available, budget_of, in_units
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

pytestmark = pytest.mark.usefixtures("own_cache")
GB = 1 << 30
WITH_DATA = [name for name in METHODS if METHODS[name].needs_data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footprint")
    save_text(root / "text.txt")
    return save_tiny("llama", root / "model").parent


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenModel:
    return hf.open_model(folder / "model")


def recipe(folder: Path, preset: str, samples: int = 4, **fields) -> Recipe:
    data = DataSpec(str(folder / "text.txt"), samples, 24)
    return Recipe(LinearSpec.parse("W4A16g16"), preset, QUICK[preset], data, **fields)


def needs(model: OpenModel, folder: Path, preset: str, way: int, **fields) -> int:
    """Bytes of a run with many samples, in which things live in one of WAYS."""
    return footprint(model, recipe(folder, preset, samples=4096, **fields), *WAYS[way]).host


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("16GB", Budget(16 * GB)),
        ("1.5G", Budget(3 * GB // 2)),
        ("800 MiB", Budget(800 << 20)),
        ("123456789", Budget(123456789)),
        ("cpu=2TB,cuda=22GB", Budget(2048 * GB, 22 * GB)),
        ("cuda=22GB", Budget(None, 22 * GB)),
    ],
)
def test_amounts_are_read_in_powers_of_1024(text: str, budget: Budget) -> None:
    assert budget_of(text) == budget


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "16XB", "cpu=", "tpu=3GB", "cpu=1GB,cpu=2GB", "1GB,2GB"])
def test_other_amounts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 16GB, or cpu=64GB,cuda=22GB"):
        budget_of(text)


@pytest.mark.parametrize("count", [5 << 10, 3 << 20, 3 * GB, 2 << 40])
def test_amounts_are_written_as_they_are_read(count: int) -> None:
    assert budget_of(in_units(count)) == Budget(count)


def test_what_is_free_is_known() -> None:
    assert 1 << 26 < available() < 1 << 62


@pytest.mark.parametrize(
    ("stat", "files"),
    [
        ("anon 40000000\ninactive_file 5000000\nactive_file 7\n", memory.CONTROLS[0]),
        ("inactive_file 1\nrss 40000000\ntotal_inactive_file 5000000\ntotal_active_file 7\n", memory.CONTROLS[1]),
    ],
)
def test_what_is_left_of_a_limit_on_the_process_counts(
    stat: str, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTROL", tmp_path)
    for name, text in zip(files, ("100000000\n", "45000000\n", stat), strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available() == 60_000_000
    (tmp_path / files[1]).write_text("145000000\n")
    assert available() == 0
    (tmp_path / files[0]).write_text("max\n")
    assert available() > 1 << 26


@pytest.mark.parametrize("preset", WITH_DATA)
def test_hidden_states_go_to_disk_where_they_do_not_fit(preset: str, model: OpenModel, folder: Path) -> None:
    settings = recipe(folder, preset, samples=4096)
    in_memory, stored = (needs(model, folder, preset, way) for way in (0, 1))
    assert stored < in_memory
    assert not placement(model, settings, Budget(in_memory)).streams_on_disk
    assert placement(model, settings, Budget(in_memory - 1)).streams_on_disk


def test_codes_are_read_again_where_not_even_they_fit(
    model: OpenModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "sizes", lambda _: replace(sizes(model), linears=100 * GB))
    settings = recipe(folder, "default")
    stored, read_again = (footprint(model, settings, *way).host for way in WAYS[1:])
    assert stored - read_again == 100 * GB
    assert not placement(model, settings, Budget(read_again)).codes_in_memory


@pytest.mark.parametrize("preset", list(METHODS))
def test_a_budget_that_no_way_keeps_is_refused_with_what_it_takes(preset: str, model: OpenModel, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"max_memory allows 97\.7KB, and preset .* needs about .*MB"):
        placement(model, recipe(folder, preset), Budget(100_000))


def test_the_accelerator_has_its_own_budget(model: OpenModel, folder: Path) -> None:
    settings = recipe(folder, "gptq")
    lives = placement(model, settings, EVERYTHING, on_device=True)
    assert lives.device > 0
    assert placement(model, settings, EVERYTHING).device == 0
    with pytest.raises(UsageError, match="of the accelerator"):
        placement(model, settings, Budget(None, lives.device - 1), on_device=True)


def test_processes_share_the_hidden_states(model: OpenModel, folder: Path) -> None:
    settings = recipe(folder, "gptq", samples=4096)
    one, four = (footprint(model, settings, *WAYS[0], processes=count).host for count in (1, 4))
    assert four < one


@pytest.mark.parametrize("preset", WITH_DATA)
def test_where_things_live_does_not_change_a_bit(
    preset: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(folder, preset)
    pipeline.quantize(str(folder / "model"), tmp_path / "memory", settings)
    monkeypatch.setattr(
        pipeline, "placement", lambda *_: replace(placement(*_), streams_on_disk=True, codes_in_memory=False)
    )
    seen = []
    made = OnDisk.__init__
    monkeypatch.setattr(OnDisk, "__init__", lambda self, *args: (seen.append(args), made(self, *args))[1])
    pipeline.quantize(str(folder / "model"), tmp_path / "disk", settings)
    assert seen
    assert same(tmp_path / "memory", tmp_path / "disk")


def test_mixed_bits_are_the_same_from_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe(folder, "gptq", avg_bits=3.0)
    pipeline.quantize(str(folder / "model"), tmp_path / "memory", settings)
    monkeypatch.setattr(pipeline, "placement", lambda *_: replace(placement(*_), streams_on_disk=True))
    pipeline.quantize(str(folder / "model"), tmp_path / "disk", settings)
    assert same(tmp_path / "memory", tmp_path / "disk")


def test_a_run_goes_on_from_disk_that_began_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, BlockDone):
            raise KeyboardInterrupt

    settings = recipe(folder, "default")
    pipeline.quantize(str(folder / "model"), tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        pipeline.quantize(str(folder / "model"), tmp_path / "out", settings, on_event=stop)
    monkeypatch.setattr(pipeline, "placement", lambda *_: replace(placement(*_), streams_on_disk=True))
    pipeline.quantize(str(folder / "model"), tmp_path / "out", settings)
    assert same(tmp_path / "whole", tmp_path / "out")


def test_a_run_that_needs_more_than_is_free_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    pipeline.quantize(str(folder / "model"), tmp_path / "enough", recipe(folder, "rtn"), on_event=told.append)
    assert not any("are free" in str(event) for event in told)
    monkeypatch.setattr(pipeline, "available", lambda: 1 << 20)
    pipeline.quantize(str(folder / "model"), tmp_path / "short", recipe(folder, "rtn"), on_event=told.append)
    assert any("of memory, and 1.0MB are free" in str(event) for event in told)


def test_the_plan_says_where_things_live(folder: Path, tmp_path: Path) -> None:
    plan = pipeline.plan(str(folder / "model"), tmp_path / "out", recipe(folder, "default"), max_memory=Budget(GB))
    assert plan.peak_memory <= GB
    assert [sentence.partition(":")[0] for sentence in plan.lives] == [
        "weights",
        "hidden states of the samples",
        "integers of all blocks, while scales are tuned end to end",
    ]


def same(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same bits."""
    a, b = Reader(first), Reader(second)
    return a.names() == b.names() and all(torch.equal(a.read(name), b.read(name)) for name in a.names())
