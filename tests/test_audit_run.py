"""An audit from end to end over tiny models: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny

from omniq.audit.models import Given, recipe_named
from omniq.audit.presets import FULL, QUICK
from omniq.audit.run import AuditSpec, audit, in_order
from omniq.errors import DataError, ModelError, OutputError, UsageError
from omniq.events import Event, Step
from omniq.pipeline import quantize

SPLITS = ("forget", "retain", "holdout")
FAST = replace(QUICK, items={"qa": 6, "document": 4}, answer_tokens=4, text_tokens=24, resamples=200)
EVALUATORS = ("qa_gen", "qa_ll", "general")


def rows(count: int = 6) -> list[dict[str, object]]:
    """Questions of the form of a user's own file."""
    return [
        {
            "question": f"Where does {split} number {index} live?",
            "answer": f"street {index}",
            "split": split,
            "wrong_answers": [f"street {index + 10}", f"street {index + 20}"],
        }
        for split in SPLITS
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of questions."""
    path = tmp_path_factory.mktemp("data") / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original, unlearned (a little moved) and quantized (the unlearned at 4 bits)."""
    base = tmp_path_factory.mktemp("models")
    save_tiny("llama", base / "original")
    shutil.copytree(base / "original", base / "unlearned")
    file = base / "unlearned" / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(0)
    save_file({k: v + 0.01 * torch.randn_like(v) for k, v in tensors.items()}, file, {"format": "pt"})
    quantize(str(base / "unlearned"), base / "quantized", recipe_named("rtn:W4A16g32")[1])
    return base


def spec(models: Path, data: Path, **changes: object) -> AuditSpec:
    """A small audit of the three models."""
    given = Given(models / "original", models / "unlearned", quantized=(models / "quantized",))
    made = AuditSpec(given, f"jsonl:{data}", FAST, evaluators=EVALUATORS)
    return replace(made, **changes)


def steps(seen: list[Event]) -> list[str]:
    """What was measured, as told."""
    return [event.text for event in seen if isinstance(event, Step)]


def test_an_audit_measures_every_model_and_judges_the_quantised_one(models: Path, data: Path, tmp_path: Path) -> None:
    result = audit(spec(models, data), tmp_path / "out")
    assert [model.name for model in result.models] == ["orig_fp", "orig_q", "unl_fp", "unl_q"]
    assert {row.name for row in result.rows} == {"orig_fp", "orig_q", "unl_fp", "unl_q"}
    assert [verdict.name for verdict in result.verdicts] == ["unl_q"]
    assert (tmp_path / "out" / "models").is_dir()


def test_an_audit_that_was_stopped_goes_on_and_ends_with_the_same(models: Path, data: Path, tmp_path: Path) -> None:
    whole = audit(spec(models, data), tmp_path / "whole")
    seen: list[Event] = []

    def stopping(event: Event) -> None:
        seen.append(event)
        if len(steps(seen)) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(spec(models, data), tmp_path / "out", on_event=stopping)
    again: list[Event] = []
    result = audit(spec(models, data), tmp_path / "out", on_event=again.append)
    assert not set(steps(seen)[:4]) & set(steps(again))
    assert result.rows == tuple(replace(row, run_id=result.run_id) for row in whole.rows)


def test_another_audit_takes_what_the_first_measured_on_the_same_models(
    models: Path, data: Path, tmp_path: Path
) -> None:
    audit(spec(models, data), tmp_path / "first")
    seen: list[Event] = []
    audit(spec(models, data), tmp_path / "second", reuse=tmp_path / "first", on_event=seen.append)
    assert steps(seen) == []
    assert not (tmp_path / "second" / "models").exists()


def of_recipe(models: Path, data: Path, unlearned: Path) -> AuditSpec:
    """An audit that has to make its quantised model."""
    recipe = dict([recipe_named("rtn:W4A16g32")])
    return spec(models, data, given=Given(models / "original", unlearned, recipes=recipe))


@pytest.mark.parametrize("way", ["another folder", "the same folder, overwritten"])
def test_a_model_made_of_another_one_is_not_taken_for_this_one(
    way: str, models: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(models / "unlearned", other)
    tensors = load_file(other / "model.safetensors")
    save_file({k: -v for k, v in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    first = audit(of_recipe(models, data, models / "unlearned"), tmp_path / "first")
    alone = audit(of_recipe(models, data, other), tmp_path / "alone")
    if way == "another folder":
        second = audit(of_recipe(models, data, other), tmp_path / "second", reuse=tmp_path / "first")
        assert not (tmp_path / "second" / "models" / "orig_q").exists()  # the control is the same
    else:
        second = audit(of_recipe(models, data, other), tmp_path / "first", overwrite=True)
    values = lambda result: [(row.metric, row.value) for row in result.rows if row.role == "unl_q"]  # noqa: E731
    assert values(second) == values(alone)
    assert values(second) != values(first)


def test_a_folder_of_another_audit_is_not_mixed_up(models: Path, data: Path, tmp_path: Path) -> None:
    audit(spec(models, data), tmp_path / "out")
    other = spec(models, data, settings=replace(FAST, seed=1))
    with pytest.raises(OutputError, match=r"settings\.seed was 0, now 1"):
        audit(other, tmp_path / "out")
    assert audit(other, tmp_path / "out", overwrite=True).rows


def test_a_folder_that_holds_something_else_is_left_alone(models: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(OutputError, match="holds no audit"):
        audit(spec(models, data), tmp_path)


def test_two_audits_do_not_write_one_folder(models: Path, data: Path, tmp_path: Path) -> None:
    def second(event: Event) -> None:
        if isinstance(event, Step):
            with pytest.raises(OutputError, match="another audit"):
                audit(spec(models, data), tmp_path / "out")

    audit(spec(models, data), tmp_path / "out", on_event=second)


def test_what_stops_one_evaluator_is_a_reason_and_the_audit_goes_on(models: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "original", broken)
    tensors = load_file(broken / "model.safetensors")
    # Not NaN itself, which loading refuses: the largest number, which overflows on the way through the model.
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name] = torch.full_like(tensors[name], torch.finfo(torch.float32).max)
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    given = Given(models / "original", broken)
    result = audit(spec(models, data, given=given, evaluators=("qa_ll",)), tmp_path / "out")
    reasons = {absent.reason for absent in result.absent if absent.name == "unl_fp" and absent.evaluator == "qa_ll"}
    assert any("not numbers" in reason for reason in reasons)
    assert not [row for row in result.rows if row.name == "unl_fp"]


def test_a_model_with_another_tokenizer_is_refused(models: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(models / "unlearned", other)
    path = other / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["merges"] = []
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="tokenizer"):
        audit(spec(models, data, given=Given(models / "original", other)), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "error", "word"),
    [
        ("jsonl:nowhere.jsonl", DataError, "nowhere.jsonl"),
        ("fiction:x", UsageError, "knowledge source"),
    ],
)
def test_data_that_cannot_be_read_is_a_sentence(
    models: Path, data: Path, tmp_path: Path, name: str, error: type, word: str
) -> None:
    with pytest.raises(error, match=word):
        audit(replace(spec(models, data), data=name), tmp_path / "out")


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=lambda settings: settings.name)
def test_an_evaluator_comes_after_those_it_reads(settings: object) -> None:
    from omniq.audit.base import EVALUATORS as known

    order = in_order(tuple(reversed(settings.evaluators)))
    assert set(order) == set(settings.evaluators)
    for place, name in enumerate(order):
        assert not set(known[name].after) & set(order[place + 1 :])


def test_the_command_writes_tables_and_a_page(
    models: Path, data: Path, tmp_path: Path, omniq: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out"
    code, told, _ = omniq(
        "audit", "--original", str(models / "original"), "--unlearned", str(models / "unlearned"),
        "--recipe", "rtn:W4A16g32", "--data", f"jsonl:{data}", "--items", "4", "--evaluators", "qa_ll,weights",
        "--out", str(out), "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert "unlearned, quantised" in told
    assert (out / "report.html").read_text().lower().startswith("<!doctype html>")
    with (out / "rows.csv").open(newline="") as file:
        assert {row["role"] for row in csv.DictReader(file)} == {"orig_fp", "orig_q", "unl_fp", "unl_q"}
    assert json.loads((out / "audit.json").read_text())["verdicts"]


def test_the_exit_code_says_when_an_effect_was_found(
    models: Path, data: Path, tmp_path: Path, omniq: Callable[..., tuple[int, str, str]]
) -> None:
    effects = "stable,inconclusive,recovered,recovered_latent,deepened,collateral,revived"
    words = ("audit", "--original", str(models / "original"), "--recipe", "rtn:W4A16g32", "--data", f"jsonl:{data}",
             "--evaluators", "qa_ll", "--device", "cpu", "--json")  # fmt: skip
    assert omniq(*words, "--out", str(tmp_path / "a"), "--fail-on", effects)[0] == 9
    code, told, _ = omniq(*words, "--out", str(tmp_path / "b"), "--fail-on", "recovered")
    assert code == 0
    assert json.loads(told)["verdicts"][0]["state"] == "NOT_ASSESSED"
    assert omniq(*words, "--out", str(tmp_path / "c"), "--fail-on", "magic")[0] == 2


def test_what_is_lacking_is_named(omniq: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, told = omniq("audit", "--data", "facts")
    assert code == 2
    assert "--original" in told
    assert "--out" in told
