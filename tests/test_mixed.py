"""Mixed bits from a command to a checkpoint: the budget holds, runtimes load it, and a run goes on with its choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from subjects import QUICK, Tiny
from tiny import save_tiny, tokens

import omniq.mixed as mixed
from omniq.calibrate.data import DataSpec
from omniq.calibrate.method import METHODS
from omniq.errors import OutputError, UnsupportedError, UsageError
from omniq.events import BlockDone, Notice
from omniq.formats.base import FORMATS, loaders_of_all
from omniq.hf import load_dense, open_model
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.runtime import format_of, info, load, quantized_linears
from omniq.spec import LinearSpec

pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(text: Path, preset: str = "rtn", scheme: str = "W4A16g16", average: float = 3.0, **other) -> Recipe:
    data = DataSpec(str(text), 4, 24)
    return Recipe(LinearSpec.parse(scheme), preset, QUICK[preset], data, avg_bits=average, **other)


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def specs_of(folder: Path) -> dict[str, LinearSpec]:
    return format_of(open_model(folder, quantized=True))[1]


def decoded(folder: Path, original: Path) -> torch.nn.Module:
    """The original with the decoded weights of the checkpoint in the place of its own."""
    dense, model = load_dense(original, torch.float32), open_model(folder, quantized=True)
    state = {f"{name}.weight": q.dequantize() for name, (q, _) in quantized_linears(model).items()}
    experts = {name: value for name, value in state.items() if ".experts." in name}
    dense.load_state_dict({name: value for name, value in state.items() if name not in experts}, strict=False)
    for layer, block in enumerate(dense.model.layers if experts else ()):
        own = lambda e, leaf: experts[f"model.layers.{layer}.mlp.experts.{e}.{leaf}_proj.weight"]  # noqa: B023, E731
        for e in range(len(block.mlp.experts.down_proj)):
            block.mlp.experts.gate_up_proj.data[e] = torch.cat([own(e, "gate"), own(e, "up")])
            block.mlp.experts.down_proj.data[e] = own(e, "down")
    return dense


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "stablelm", "opt"])
def test_transformers_and_omniq_compute_the_calibrated_model_within_the_budget(name, tmp_path, text):
    folder = save_tiny(name, tmp_path / "model")
    report = quantize(str(folder), tmp_path / "out", recipe(text, average=2.6))
    assert report.verified
    specs = specs_of(tmp_path / "out")
    model = open_model(folder)
    assert len({spec.weight.bits for spec in specs.values()}) > 1
    by_name = {module: specs[model.stored_name(f"{module}.weight").removesuffix(".weight")] for module in model.linears}
    assert 2.3 < mixed.average_bits(model, by_name) <= 2.6
    ids = tokens(2, 24)
    expected = logits(decoded(tmp_path / "out", folder), ids)
    for loaded in (load(tmp_path / "out"), load_dense(tmp_path / "out", torch.float32)):
        torch.testing.assert_close(logits(loaded, ids), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_without_the_prefix_of_its_model_loads_in_transformers(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in tensors.items()}, folder / "model.safetensors")
    quantize(str(folder), tmp_path / "out", recipe(text, average=2.6))
    ids = tokens(2, 24)
    expected = logits(load(tmp_path / "out"), ids)
    torch.testing.assert_close(logits(load_dense(tmp_path / "out", torch.float32), ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"embed_bits": 8, "embed_group_size": 32}, {"rotate": "online"}, {"scheme": "W4A8g16"}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_budget_goes_with_quantised_tables_rotations_and_quantised_activations(settings, tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    report = quantize(str(folder), tmp_path / "out", recipe(text, "gptq", average=2.6, **settings))
    assert report.verified
    assert len({spec.weight.bits for spec in specs_of(tmp_path / "out").values()}) > 1
    ids = tokens(2, 24)
    found = logits(load(tmp_path / "out"), ids)
    assert found.isfinite().all()
    if "embed_bits" in settings:
        dense = load_dense(tmp_path / "out", torch.float32)
        torch.testing.assert_close(found, logits(dense, ids), rtol=1e-4, atol=1e-4)


def test_every_preset_is_covered_here():
    assert set(QUICK) == set(METHODS)


def test_gptq_refuses_different_bits_for_linears_that_it_solves_together():
    tiny = Tiny("llama", "W4A16g16")
    view, _ = tiny.view()
    view.specs["self_attn.k_proj"] = tiny.spec.with_bits(3)
    with pytest.raises(UnsupportedError, match=r"self_attn.q_proj, self_attn.k_proj.*read one tensor.*4, 3 bits"):
        METHODS["gptq"]().block(view)


@pytest.mark.parametrize("preset", list(QUICK))
def test_every_preset_takes_different_bits_in_one_block(preset, tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    report = quantize(str(folder), tmp_path / "out", recipe(text, preset))
    specs = specs_of(tmp_path / "out")
    blocks = [{n: s for n, s in specs.items() if f"layers.{i}." in n} for i in range(2)]
    assert any(len(set(block.values())) > 1 for block in blocks)
    for block in blocks:
        for fused in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            assert len({spec for name, spec in block.items() if name.endswith(fused)}) == 1
    found = info(tmp_path / "out")
    assert found["schemes"] == {str(spec): list(specs.values()).count(spec) for spec in set(specs.values())}
    assert found["bits_per_weight"] == pytest.approx(report.bits_per_weight, abs=1e-3)


def test_report_card_and_notice_say_which_bits_there_are(tmp_path, text):
    folder, events = save_tiny("llama", tmp_path / "model"), []
    report = quantize(str(folder), tmp_path / "out", recipe(text), on_event=events.append)
    specs = list(specs_of(tmp_path / "out").values())
    for bits in {spec.weight.bits for spec in specs}:
        count = sum(spec.weight.bits == bits for spec in specs)
        assert f"{bits} bits: {count} linear" in report.allocation
    assert "bits of a code on average" in report.allocation
    assert report.allocation in (tmp_path / "out/README.md").read_text()
    assert Notice(report.allocation) in events
    assert report.scheme == "W3A16g16-mixed"
    assert json.loads((tmp_path / "out/config.json").read_text())["omniq"]["recipe"]["avg_bits"] == 3.0


def test_a_plan_counts_the_budget_and_costs_more_than_one_without(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    with_budget = plan(str(folder), tmp_path / "out", recipe(text))
    uniform = plan(str(folder), tmp_path / "out", Recipe(LinearSpec.parse("W3A16g16"), "rtn"))
    assert (with_budget.bits_per_weight, with_budget.size_after) == (uniform.bits_per_weight, uniform.size_after)
    assert with_budget.peak_memory >= uniform.peak_memory
    assert any("2, 3, 4, 8 bits by its measured sensitivity, 3 on average" in note for note in with_budget.notes)
    assert any(loader.startswith("SGLang: no") for loader in with_budget.loaders)


class Stop(Exception):
    """Raised to interrupt a run at a chosen moment."""


def stopping_at(kind: type):
    def listener(event):
        if isinstance(event, kind) and not (isinstance(event, Notice) and "on average" not in event.text):
            raise Stop

    return listener


@pytest.mark.parametrize("moment", [Notice, BlockDone])
@pytest.mark.parametrize("preset", ["rtn", "gptq"])
def test_an_interrupted_run_keeps_its_allocation_and_ends_with_the_same_bits(
    moment, preset, tmp_path, text, monkeypatch
):
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "whole", recipe(text, preset))
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe(text, preset), on_event=stopping_at(moment))
    monkeypatch.setattr(mixed, "chosen_bits", lambda *_: pytest.fail("measured a second time"))
    quantize(str(folder), tmp_path / "out", recipe(text, preset))
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_a_damaged_allocation_and_another_budget_are_refused(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe(text), on_event=stopping_at(BlockDone))
    with pytest.raises(OutputError, match=r"avg_bits was 3.0, now 3.5"):
        quantize(str(folder), tmp_path / "out", recipe(text, average=3.5))
    path = tmp_path / ".out.omniq/allocation.safetensors"
    path.write_bytes(path.read_bytes().replace(b": 2", b": 8", 1))
    with pytest.raises(OutputError, match=r"allocation\.safetensors is damaged"):
        quantize(str(folder), tmp_path / "out", recipe(text))
    assert quantize(str(folder), tmp_path / "out", recipe(text), overwrite=True).verified


REFUSED = {
    "asymmetric": ("llama", {"scheme": "W4A16g16-asym"}, UnsupportedError, "asymmetric.*symmetric weights"),
    "own linears": ("falcon", {}, UnsupportedError, "linear class of its own"),
    "group size": ("llama", {"scheme": "W4A16g48"}, UsageError, "not a multiple of group size 48"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_mixed_is_refused_in_the_plan(case, tmp_path, text):
    name, change, error, words = REFUSED[case]
    folder = save_tiny(name, tmp_path / "model")
    with pytest.raises(error, match=words):
        plan(str(folder), tmp_path / "out", recipe(text, **change))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"avg_bits": 1.5}, "avg_bits is 1.5.*from 2 to 8"),
        ({"avg_bits": 3.5, "bits_choices": (2, 3)}, "from 2 to 3"),
        ({"avg_bits": 3.0, "bits_choices": (3,)}, "two or more rising numbers"),
        ({"avg_bits": 3.0, "bits_choices": (4, 2)}, "two or more rising numbers"),
        ({"avg_bits": 3.0, "bits_choices": (2, 9)}, "from 2 to 8"),
        ({"avg_bits": 3.0, "bits_choices": (2, "3")}, "from 2 to 8"),
        ({"avg_bits": True}, "expected a number or null"),
        ({"bits_choices": (2, 4)}, "need a budget"),
        ({"avg_bits": 3.0, "bits_choices": "2,3"}, "expected a list"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        Recipe.from_dict({"scheme": "W4A16g64", **settings})


def test_a_recipe_with_a_budget_survives_its_plain_form():
    one = Recipe(LinearSpec.parse("W4A16g64-asym"), avg_bits=2.75, bits_choices=(2, 3, 4))
    assert Recipe.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert one.label == "W2.75A16g64-asym-mixed"
    assert [spec.weight.bits for spec in one.candidates()] == [2, 3, 4]
    assert {spec.with_bits(4) for spec in one.candidates()} == {one.scheme}


def test_a_runtime_loads_a_mix_only_when_it_loads_all_of_it():
    form = FORMATS["compressed-tensors"]
    sentences = loaders_of_all(form.loaded_by, [LinearSpec.parse(f"W{bits}A16g64") for bits in (4, 8, 3)])
    assert [sentence.split(":")[0] for sentence in sentences if ": yes" not in sentence] == ["SGLang"]
    four = LinearSpec.parse("W4A16g64")
    assert loaders_of_all(form.loaded_by, [four, LinearSpec.parse("W8A16g64")]) == form.loaded_by(four)
