"""metrics.jsonl: a line for every finished block while the run goes on, none lost or twice after an interruption."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny import save_text, save_tiny

from omniq.calibrate.data import DataSpec
from omniq.events import BlockDone
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.reporting.metrics import METRICS
from omniq.spec import LinearSpec
from omniq.work import work_folder

pytestmark = pytest.mark.usefixtures("own_cache")
DOCS = (Path(__file__).resolve().parents[1] / "docs" / "observability.md").read_text(encoding="utf-8")
BLOCKS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    save_text(folder / "text.txt")
    return save_tiny("llama", folder / "model", num_hidden_layers=BLOCKS)


def recipe(model: Path, preset: str = "gptq", **options: int) -> Recipe:
    data = DataSpec(str(model.with_name("text.txt")), 2, 16)
    return Recipe(LinearSpec.parse("W4A16g16"), preset, options, data)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


class Stop(Exception):
    """Raised to interrupt a run."""


def stopping_at(index: int):
    def listener(event: object) -> None:
        if isinstance(event, BlockDone) and event.index == index:
            raise Stop

    return listener


def test_a_block_is_in_the_file_as_soon_as_it_is_finished(model: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []

    def listener(event: object) -> None:
        if isinstance(event, BlockDone):
            seen.append([line["block"] for line in lines(work_folder(out))])

    quantize(str(model), out, recipe(model), on_event=listener)
    assert seen == [[0], [0, 1], [0, 1, 2]]
    assert [line["block"] for line in lines(out)] == [0, 1, 2]


@pytest.mark.parametrize("lost", [False, True], ids=["after a block", "with the last block's streams lost"])
def test_an_interrupted_run_goes_on_with_its_lines(lost: bool, model: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", work_folder(tmp_path / "out")
    with pytest.raises(Stop):
        quantize(str(model), out, recipe(model), on_event=stopping_at(1))
    before = lines(work)
    assert [line["block"] for line in before] == [0, 1]
    if lost:
        # The streams after block 0 are gone already, so everything is done anew.
        for path in work.glob("streams-00001*"):
            path.unlink()
    quantize(str(model), out, recipe(model))
    after = lines(out)
    assert [line["block"] for line in after] == [0, 1, 2]
    assert (after[:2] == before) is not lost


def test_the_lines_are_what_the_report_says(model: Path, tmp_path: Path) -> None:
    quantize(str(model), tmp_path / "out", recipe(model, "omniquant", epochs=1))
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    for line, kept in zip(lines(tmp_path / "out"), record["blocks"], strict=True):
        for name in ("seconds", "loss_before", "loss_after", "error", "skipped_steps", "peak_memory"):
            assert line[name] == kept[name]
        assert 0 < line["loss_after"] <= line["loss_before"]
        assert (line["block"], line["unreached"]) == (kept["index"], len(kept["unreached"]))
        assert line["device_peak"] is None


def test_a_preset_without_data_has_no_loss_and_no_error(model: Path, tmp_path: Path) -> None:
    quantize(str(model), tmp_path / "out", recipe(model, "rtn"))
    for line in lines(tmp_path / "out"):
        assert (line["loss_before"], line["loss_after"], line["error"]) == (None, None, None)


def test_every_field_is_documented_and_the_documented_reader_reads_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(str(model), out, recipe(model, "rtn"))
    table = DOCS.split("## Metrics of every block")[1].split("```")[0]
    named = {
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    assert all(set(line) == named for line in lines(out))
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1], scope)
    assert scope["metrics"](out) == lines(out)
    with pytest.raises(Stop):
        quantize(str(model), tmp_path / "more", recipe(model), on_event=stopping_at(0))
    assert [line["block"] for line in scope["metrics"](tmp_path / "more")] == [0]
