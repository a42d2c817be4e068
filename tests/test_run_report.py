"""The report beside a checkpoint: every block whichever session made it, and what is measured later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TEXT, save_tiny

from omniq import pipeline
from omniq.calibrate.data import DataSpec
from omniq.card import front_matter
from omniq.errors import ModelError, UsageError
from omniq.eval.windows import EvalSpec
from omniq.events import BlockDone, Notice
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.recording import recorded
from omniq.reporting.folder import read_record
from omniq.reporting.page import html
from omniq.reporting.record import Record
from omniq.spec import LinearSpec


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with a card and a licence, and a text beside it."""
    monkeypatch.setattr(pipeline, "cache_folder", lambda: tmp_path / "cache")
    folder = save_tiny("llama", tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "LICENSE").write_text("MIT")
    (tmp_path / "text.txt").write_text("\n".join(f"{i}: {TEXT}" for i in range(12)))
    return folder


def recipe(model: Path, preset: str = "awq") -> Recipe:
    """A quick recipe; awq folds, so that the weights which codes stand for are not those of the model."""
    data = DataSpec(str(model.with_name("text.txt")), 4, 24)
    return Recipe(LinearSpec.parse("W4A16g16"), preset, {"grid": 4} if preset == "awq" else {}, data)


class Stop(Exception):
    """Raised to interrupt a run."""


def timeless(record: Record) -> Record:
    """The record without what differs between two runs of the same thing."""
    blocks = tuple(replace(block, seconds=0.0, peak_memory=0) for block in record.blocks)
    return replace(record, blocks=blocks, seconds=0.0, peak_memory=0, date="", resumed_at=0)


def test_the_report_of_a_resumed_run_tells_of_all_blocks_and_notices(model: Path, tmp_path: Path) -> None:
    events = []
    quantize(str(model), tmp_path / "whole", recipe(model), on_event=events.append)

    def stopping(event: object) -> None:
        if isinstance(event, BlockDone):
            raise Stop

    with pytest.raises(Stop):
        quantize(str(model), tmp_path / "out", recipe(model), on_event=stopping)
    quantize(str(model), tmp_path / "out", recipe(model))
    whole, resumed = (read_record(tmp_path / name) for name in ("whole", "out"))
    assert timeless(resumed) == timeless(whole)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 1)
    assert len(whole.notices) == len([event for event in events if isinstance(event, Notice)]) > 0
    assert [len(block.linears) for block in resumed.blocks] == [7, 7]
    assert all(0 < one.output < 0.1 and 0 < one.weight < 0.1 for one in resumed.linears)


@pytest.mark.parametrize("preset", ["rtn", "gptq"])
def test_errors_are_told_of_presets_that_see_no_data_and_that_round_in_place(
    preset: str, model: Path, tmp_path: Path
) -> None:
    quantize(str(model), tmp_path / "out", recipe(model, preset))
    linears = read_record(tmp_path / "out").linears
    assert all(0 < one.weight < 0.1 for one in linears)
    assert all(one.output is None if preset == "rtn" else 0 < one.output < 0.1 for one in linears)


def test_no_path_of_this_machine_is_in_the_card_or_the_report(model: Path, tmp_path: Path) -> None:
    quantize(str(model), tmp_path / "out", recipe(model, "rtn"), evaluate=EvalSpec(model.with_name("text.txt"), 2, 16))
    quantize(str(model), tmp_path / "gptq", recipe(model, "gptq"))
    for folder in (tmp_path / "out", tmp_path / "gptq"):
        for name in ("README.md", "report.json", "report.html"):
            assert str(tmp_path) not in (folder / name).read_text(), name
    assert "text.txt" in (tmp_path / "gptq/README.md").read_text()


def test_licence_and_quality_reach_card_and_report_and_later_figures_replace_them(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = quantize(str(model), out, recipe(model, "rtn"), evaluate=EvalSpec(model.with_name("text.txt"), 2, 16))
    assert read_record(out).quality["kl"] == report.kl
    assert front_matter((out / "README.md").read_text())["license"] == "mit"
    assert (out / "LICENSE").read_text() == "MIT"
    figures = {"ppl": 12.5, "ppl_original": 11.25, "kl": 0.25, "top1": 0.5, "tokens": 9, "protocol": "P", "bytes": 3}
    assert recorded(out, figures) == ["config.json", "report.json", "report.html", "README.md"]
    assert json.loads((out / "config.json").read_text())["omniq"]["quality"]["kl"] == 0.25
    assert "11.250 | 12.500" in (out / "README.md").read_text()
    assert (out / "report.html").read_text() == html(read_record(out))
    assert "12.500" in (out / "report.html").read_text()


def test_figures_are_recorded_only_of_what_is_stored(model: Path, tmp_path: Path) -> None:
    from omniq.cli.eval import check_recordable
    from omniq.evaluation import Place

    spec = EvalSpec(model.with_name("text.txt"))
    with pytest.raises(UsageError, match="--text"):
        check_recordable(tmp_path, None, Place("cpu", None, "exact", 16))
    for place in (Place("cpu", None, "int8", 16), Place("cpu", None, "exact", 8)):
        with pytest.raises(UsageError, match="what is stored"):
            check_recordable(tmp_path, spec, place)
    with pytest.raises(ModelError, match=r"report\.json"):
        check_recordable(tmp_path, spec, Place("cpu", None, "exact", 16))
