"""Rotated models through the whole pipeline: what is loaded computes what was calibrated, and who cannot says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import save_tiny, tokens
from torch import Tensor, nn

from omniq.calibrate.clips import RATIOS, best_clip
from omniq.calibrate.data import DataSpec
from omniq.calibrate.run import assign
from omniq.calibrate.view import activation_grids
from omniq.errors import ModelError, UnsupportedError, UsageError
from omniq.events import BlockDone, Event, Started
from omniq.grid import fake_quantize_tokens
from omniq.hf import load_dense, open_model
from omniq.kernels.cpu import Cpu
from omniq.nn import QuantLinear
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.rotation.model import transform_inputs
from omniq.runtime import format_of, load, quantized_linears
from omniq.spec import ActSpec, LinearSpec

PRESETS = {"rtn": {}, "gptq": {}, "awq": {"grid": 4}, "omniquant": {"epochs": 1}}


pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(scheme: str, text: Path, preset: str = "rtn", **other) -> Recipe:
    data = DataSpec(str(text), samples=4, length=16)
    return Recipe(LinearSpec.parse(scheme), preset, PRESETS[preset], data, **other)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens(2, 24), use_cache=False).logits


def expected_logits(folder: Path) -> Tensor:
    """By torch alone, from the decoded weights and the specs that the checkpoint records."""
    model = open_model(folder, quantized=True)
    _, specs = format_of(model)
    transform_inputs(model.skeleton, tuple(name for name, spec in specs.items() if spec.transform))
    decoded = {f"{name}.weight": q.dequantize() for name, (q, _) in quantized_linears(model).items()}
    names = [name for name, _ in model.skeleton.named_parameters()]
    assign(model.skeleton, [(n, decoded[n] if n in decoded else model.read(n).float()) for n in names])
    with activation_grids(model.skeleton, specs, None):
        return logits(model.skeleton)


def stop(event: Event) -> None:
    """Ends a run as Ctrl-C does, when its first block is stored."""
    if isinstance(event, BlockDone):
        raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["fold", "online", "inputs"])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3_moe"])
def test_at_eight_bits_a_rotated_checkpoint_computes_what_the_original_does(name, mode, tmp_path, text) -> None:
    folder = save_tiny(name, tmp_path / "model")
    assert quantize(str(folder), tmp_path / "out", recipe("W8A16", text, rotate=mode)).verified
    original = logits(load_dense(folder))
    assert (logits(load(tmp_path / "out")) - original).norm() < 0.05 * original.norm()


def test_what_only_folds_loads_in_plain_transformers(tmp_path, text) -> None:
    folder = save_tiny("llama-tied", tmp_path / "model")
    report = quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, rotate="fold"))
    assert report.loaders[0].startswith("transformers")
    assert ": yes" in report.loaders[0]
    dense = logits(load_dense(tmp_path / "out", torch.float32))
    torch.testing.assert_close(logits(load(tmp_path / "out")), dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_quantises_a_rotated_model_and_reloads(preset, tmp_path, text, monkeypatch) -> None:
    monkeypatch.setattr(Cpu, "refuse", lambda *_: "not in this test")
    folder = save_tiny("llama", tmp_path / "model")
    made = recipe("W4A4", text, preset, rotate="online", attention=False, search_clips=preset != "rtn")
    assert quantize(str(folder), tmp_path / "out", made).verified
    torch.testing.assert_close(logits(load(tmp_path / "out")), expected_logits(tmp_path / "out"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("other", [{"rotate": "online"}, {"search_clips": True, "preset": "gptq"}], ids=str)
def test_what_only_omniq_computes_is_refused_by_transformers_and_announced(other, tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    report = quantize(str(folder), tmp_path / "out", recipe("W4A4", text, **other))
    assert [": no" in sentence for sentence in report.loaders] == [True, False]
    with pytest.raises(ModelError, match=r"transformers cannot load .* QuantizationConfig"):
        load_dense(tmp_path / "out")


def test_an_unrotated_model_loses_more_to_outliers_than_a_rotated_one(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    model = load_dense(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] *= 40
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[5] *= 40
    model.save_pretrained(folder)
    original, errors = logits(model), {}
    for mode in ("none", "fold", "online"):
        quantize(str(folder), tmp_path / mode, recipe("W4A4", text, rotate=mode, attention=False))
        errors[mode] = float((logits(load(tmp_path / mode)) - original).norm())
    assert errors["online"] < errors["fold"] < errors["none"]


def test_a_rotated_run_goes_on_where_it_stopped_with_the_same_bits(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    made = recipe("W4A4", text, "gptq", rotate="online", search_clips=True)
    quantize(str(folder), tmp_path / "whole", made)
    with pytest.raises(KeyboardInterrupt):
        quantize(str(folder), tmp_path / "parts", made, on_event=stop)
    events = []
    quantize(str(folder), tmp_path / "parts", made, on_event=events.append)
    assert next(event.resumed_at for event in events if isinstance(event, Started)) == 1
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_another_rotation_is_another_run(tmp_path, text) -> None:
    first, other = (recipe("W4A4", text, rotate=mode).to_dict() for mode in ("fold", "online"))
    assert first != other
    assert Recipe.from_dict(first).rotate == "fold"


def test_layers_know_their_transform_and_run_it_before_their_grid(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A4", text, rotate="online"))
    layers = {n: m for n, m in load(tmp_path / "out").named_modules() if isinstance(m, QuantLinear)}
    assert {n.rpartition(".")[2] for n, layer in layers.items() if layer.spec.transform} == {"down_proj"}
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["omniq"]["attention"]["hadamard"] is True
    assert set(values["quantization_config"]["omniq_linears"].values()) == {"W4A4-had"}


def test_a_record_that_contradicts_its_config_group_is_a_damaged_model(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A4", text, rotate="online"))
    path = tmp_path / "out" / "config.json"
    path.write_text(path.read_text().replace("W4A4-had", "W4A8-had"))
    with pytest.raises(ModelError, match=r"omniq_linears .* which its config group does not"):
        load(tmp_path / "out")


def test_the_plan_tells_what_a_rotation_costs(tmp_path, text) -> None:
    folder = save_tiny("llama-tied", tmp_path / "model")
    plain = plan(str(folder), tmp_path / "out", recipe("W4A4", text))
    turned = plan(str(folder), tmp_path / "out", recipe("W4A4", text, rotate="online"))
    assert turned.size_after - plain.size_after == 320 * 64 * 4
    assert any("stored on its own" in note for note in turned.notes)
    assert any("only omniq loads" in note for note in turned.notes)


def test_clips_are_searched_only_where_there_are_grids_and_tokens(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    for made, reason in (
        (recipe("W4A16", text, "gptq", search_clips=True), "keeps activations in floating point"),
        (recipe("W4A4", text, "rtn", search_clips=True), "needs calibration tokens"),
    ):
        with pytest.raises(UsageError, match=reason):
            plan(str(folder), tmp_path / "out", made)


def test_an_architecture_that_cannot_be_rotated_is_refused_before_work_starts(tmp_path, text) -> None:
    folder = save_tiny("gemma3_text", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="norm stands between"):
        quantize(str(folder), tmp_path / "out", recipe("W4A4", text, rotate="fold"))
    assert not (tmp_path / ".out.omniq").exists()


def test_recipes_name_the_rotations_that_there_are(text) -> None:
    with pytest.raises(UsageError, match="auto, none, fold, online, inputs"):
        recipe("W4A4", text, rotate="spin")
    with pytest.raises(UsageError, match="rotate: inputs"):
        recipe("W4A4-had", text)


@pytest.mark.parametrize(
    ("scheme", "preset", "rotation"),
    [
        ("W4A4", "default", "inputs"),
        ("W4A4", "omniquant", "none"),
        ("W4A8", "default", "none"),
        ("W4A16", "default", "none"),
    ],
)
def test_by_itself_a_recipe_rotates_for_few_activation_bits_and_never_a_published_preset(
    scheme: str, preset: str, rotation: str
) -> None:
    made = Recipe(LinearSpec.parse(scheme), preset)
    assert made.rotation == rotation
    assert made.clips is (rotation != "none")
    assert Recipe(LinearSpec.parse(scheme), preset, rotate="fold", search_clips=False).rotation == "fold"
    assert Recipe.from_dict(made.to_dict()) == made


def test_a_published_preset_at_few_activation_bits_says_what_would_help(tmp_path, text) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    notes = {
        made.rotate: plan(str(folder), tmp_path / "out", made).notes
        for made in (recipe("W4A4", text), recipe("W4A4", text, rotate="inputs"))
    }
    assert any("--rotate inputs" in note for note in notes["auto"])
    assert not any("--rotate inputs" in note for note in notes["inputs"])


def test_the_best_clip_has_the_least_error_of_all_tried_and_cuts_rare_peaks() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens_, weight = torch.randn(64, 256, generator=generator), torch.randn(16, 256, generator=generator)
    unit = tokens_.double().square().mean(-1, keepdim=True).sqrt()

    def error(ratio: float) -> float:
        delta = fake_quantize_tokens(tokens_, ActSpec(4, clip=ratio)).double() - tokens_
        return float(((delta / unit) @ weight.double().T).square().sum())

    found = best_clip(tokens_, weight, ActSpec(4), RATIOS)
    assert found == min(RATIOS, key=error)
    assert found < 1
    assert best_clip(tokens_, weight, ActSpec(8), RATIOS) >= found
