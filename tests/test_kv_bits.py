"""Keys and values of few bits: what they are rounded to, that this is kept and loaded, and who cannot say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import save_tiny, tokens
from torch import Tensor, nn

from omniq.attention import quantized_heads, set_attention
from omniq.calibrate.data import DataSpec
from omniq.calibrate.run import assign
from omniq.calibrate.view import activation_grids
from omniq.errors import UnsupportedError, UsageError
from omniq.exporting.run import export
from omniq.hf import load_dense, open_model
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.rotation.planning import head_spec
from omniq.runtime import attention_grid, info, load, quantized_linears
from omniq.spec import HeadSpec, LinearSpec

pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(text: Path, bits: int, scheme: str = "W8A16", preset: str = "rtn", **other) -> Recipe:
    return Recipe(LinearSpec.parse(scheme), preset, {}, DataSpec(str(text), 4, 16), kv_bits=bits, **other)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens(2, 24), use_cache=False).logits


def heads(spec: HeadSpec | None, size: int = 24) -> list[tuple[Tensor, Tensor]]:
    """q, k and v of 2 x 3 heads and 5 tokens, each before and after."""
    module = nn.Module()
    set_attention(module, spec)
    before = torch.randn(3, 2, 3, 5, size, generator=torch.Generator().manual_seed(0)).unbind()
    return list(zip(before, quantized_heads(module, *before), strict=True))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("size", [16, 20, 24])
def test_keys_and_values_lie_on_one_even_grid_for_each_token_and_head(bits: int, size: int) -> None:
    _, *held = heads(HeadSpec(bits, False, hadamard=True, queries=False), size)
    for _, after in held:
        for row in after.reshape(-1, size).double():
            step = (row.max() - row.min()) / (2**bits - 1)
            places = (row - row.min()) / step
            torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-3)
            assert len(places.round().unique()) <= 2**bits


@pytest.mark.parametrize("size", [16, 20, 24])
def test_queries_are_only_turned_so_that_scores_change_by_the_rounding_of_keys_alone(size: int) -> None:
    errors = []
    for bits in (3, 5, 8):
        (q, turned), (k, rounded), _ = heads(HeadSpec(bits, False, hadamard=True, queries=False), size)
        torch.testing.assert_close(turned @ turned.mT, q @ q.mT, rtol=1e-4, atol=1e-4)
        errors.append(float((turned @ rounded.mT - q @ k.mT).norm() / (q @ k.mT).norm()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "opt", "mixtral"])
def test_what_is_loaded_computes_with_the_rounded_keys_and_values(name: str, tmp_path: Path, text: Path) -> None:
    folder = save_tiny(name, tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe(text, 3))
    model = open_model(tmp_path / "out", quantized=True)
    spec = attention_grid(model)
    assert spec == HeadSpec(3, False, hadamard=True, queries=False)
    decoded = {f"{layer}.weight": q.dequantize() for layer, (q, _) in quantized_linears(model).items()}
    names = [param for param, _ in model.skeleton.named_parameters()]
    assign(model.skeleton, [(n, decoded[n] if n in decoded else model.read(n).float()) for n in names])
    with activation_grids(model.skeleton, {}, spec):
        expected = logits(model.skeleton)
    without = logits(model.skeleton)
    torch.testing.assert_close(logits(load(tmp_path / "out")), expected, rtol=1e-3, atol=1e-3)
    assert (without - expected).abs().max() > 0.01
    if name != "mixtral":
        dense = logits(load_dense(tmp_path / "out", torch.float32))
        torch.testing.assert_close(dense, without, rtol=1e-3, atol=1e-3)


def test_decoding_with_a_cache_is_the_same_as_reading_at_once(tmp_path: Path, text: Path) -> None:
    quantize(str(save_tiny("llama", tmp_path / "model")), tmp_path / "out", recipe(text, 4))
    model, ids = load(tmp_path / "out"), tokens(1, 12)
    with torch.no_grad():
        at_once, cache, steps = model(input_ids=ids, use_cache=False).logits, None, []
        for place in range(ids.shape[1]):
            out = model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), at_once, rtol=1e-3, atol=1e-3)


def test_they_decide_alone_over_the_grid_that_activations_bring(tmp_path: Path, text: Path) -> None:
    model = open_model(save_tiny("llama", tmp_path / "model"))
    for other in ({}, {"attention": False}):
        assert head_spec(model, recipe(text, 8, "W4A4", **other)) == HeadSpec(8, False, hadamard=True, queries=False)
    assert head_spec(model, recipe(text, 16)) is None


def test_the_plan_says_who_rounds_them(tmp_path: Path, text: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    notes = plan(str(folder), tmp_path / "out", recipe(text, 4)).notes
    assert any(note.startswith("k and v inside attention are rounded to 4 bits by omniq.load") for note in notes)


def test_the_plan_the_card_and_info_name_the_loader_that_rounds_them(tmp_path: Path, text: Path) -> None:
    folder, out = save_tiny("llama", tmp_path / "model"), tmp_path / "out"
    said = "omniq: yes; with it alone k and v inside attention are rounded to 4 bits."
    assert said in plan(str(folder), out, recipe(text, 4)).loaders
    assert said not in plan(str(folder), out, recipe(text, 16)).loaders
    quantize(str(folder), out, recipe(text, 4))
    assert said in info(out)["loaders"]
    assert f"- {said}" in (out / "README.md").read_text(encoding="utf-8")


def test_where_attention_offers_no_way_in_they_are_refused(tmp_path: Path, text: Path) -> None:
    folder = save_tiny("falcon", tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"kv_bits is 4, but .* no way in; leave it at 16"):
        plan(str(folder), tmp_path / "out", recipe(text, 4))


@pytest.mark.parametrize("bits", [0, 1, 9, 12, 32])
def test_other_bits_are_refused(bits: int, text: Path) -> None:
    with pytest.raises(UsageError, match=f"kv_bits is {bits}; use 2 to 8"):
        recipe(text, bits)


def test_plain_weights_cannot_say_it_and_packed_ones_keep_it(tmp_path: Path, text: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model", torch.float16)
    quantize(str(folder), tmp_path / "out", recipe(text, 4, "W4A16g32"))
    with pytest.raises(UnsupportedError, match="k and v inside attention are rounded to 4 bits"):
        export(tmp_path / "out", tmp_path / "dense", "dense")
    report = export(tmp_path / "out", tmp_path / "gptq", "gptq")
    assert any("k and v inside attention" in note for note in report.notes)
    kept = json.loads((tmp_path / "gptq" / "config.json").read_text())["omniq"]["attention"]
    assert kept == {"bits": 4, "symmetric": False, "clip": 1.0, "hadamard": True, "queries": False}
    assert torch.equal(logits(load(tmp_path / "gptq")), logits(load(tmp_path / "out")))
