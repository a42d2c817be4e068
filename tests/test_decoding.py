"""Blocks done whole by the CPU library: as near to float64 as the blocks' own forward, for every kind of call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cpu_subjects import DTYPES, needs_library
from fused_subjects import (
    MODELS,
    SCHEMES,
    Calls,
    assert_as_accurate,
    dense_model,
    fuse,
    fused_model,
    logits,
    plain_blocks,
    quantised,
)
from tiny import save_text, save_tiny, tokens
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from omniq.calibrate.data import DataSpec
from omniq.decoding import FusedBlock
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.runtime import load
from omniq.spec import LinearSpec

pytestmark = needs_library
SHAPES = [(1, 1), (1, 7), (3, 1), (3, 7), (1, 70), (3, 70)]


@pytest.fixture(scope="module", params=list(MODELS))
def subject(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """(fused, float64 with the same weights) of one architecture. Tests leave it as it is."""
    model, exact = quantised(dense_model(request.param), SCHEMES[request.param])
    assert fuse(model) is None
    return model, exact


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_blocks_are_as_accurate_as_their_own_forward(
    subject: tuple[nn.Module, nn.Module], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    assert_as_accurate(*subject, tokens(*shape))
    assert calls.count == 2, "one call a block"


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_sixteen_bit_blocks_are_as_accurate_too(name: str, dtype: torch.dtype) -> None:
    model, exact = quantised(dense_model(name), SCHEMES[name])
    model = model.to(dtype)
    assert fuse(model) is None
    for path, param in model.named_parameters():
        exact.get_parameter(path).copy_(param)
    for path, buffer in model.named_buffers():
        if path.endswith("bias"):
            exact.get_parameter(path).copy_(buffer)
    for shape in ((1, 1), (3, 7), (2, 70)):
        assert_as_accurate(model, exact, tokens(*shape))


def in_chunks(model: nn.Module, ids: Tensor, sizes: list[int], cache: DynamicCache | StaticCache) -> Tensor:
    """Logits of ids (B, T), given to the model in pieces that share a cache."""
    parts, start = [], 0
    for size in sizes:
        parts.append(logits(model, ids[:, start : start + size], use_cache=True, past_key_values=cache))
        start += size
    assert start == ids.shape[1]
    return torch.cat(parts, 1)


CHUNKS = {"prompt and steps": [7] + 5 * [1], "steps": 12 * [1], "long prompt": [70, 1, 1], "chunks": [5, 3, 20, 1, 17]}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_cache_changes_nothing_however_the_text_is_cut(
    subject: tuple[nn.Module, nn.Module], chunks: str, batch: int
) -> None:
    model, exact = subject
    ids = tokens(batch, sum(CHUNKS[chunks]))
    reference = logits(exact, ids)
    ours = in_chunks(model, ids, CHUNKS[chunks], DynamicCache(config=model.config))
    with plain_blocks(model):
        plain = in_chunks(model, ids, CHUNKS[chunks], DynamicCache(config=model.config))
    allowed = 2 * (plain.double() - reference).norm() + torch.finfo(torch.float32).eps * reference.norm()
    assert (ours.double() - reference).norm() <= allowed


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_cache_of_fixed_size_changes_nothing_either(subject: tuple[nn.Module, nn.Module], chunks: str) -> None:
    model, _ = subject
    ids = tokens(2, sum(CHUNKS[chunks]))
    ours = in_chunks(model, ids, CHUNKS[chunks], StaticCache(config=model.config, max_cache_len=96))
    torch.testing.assert_close(ours, logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [7, 70])
def test_padding_on_the_left_is_masked(subject: tuple[nn.Module, nn.Module], length: int) -> None:
    model, exact = subject
    ids, mask = tokens(3, length), torch.ones(3, length, dtype=torch.long)
    mask[0, :3] = 0
    mask[1, : length - 1] = 0
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    assert_as_accurate(model, exact, ids, mask.bool(), attention_mask=mask, position_ids=places)
    alone = logits(model, ids[:1, 3:])
    padded = logits(model, ids, attention_mask=mask, position_ids=places)
    torch.testing.assert_close(padded[:1, 3:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "places", [torch.arange(5, 17)[None], torch.arange(24).view(2, 12) * 3], ids=["shared", "of each text"]
)
def test_positions_may_be_given(subject: tuple[nn.Module, nn.Module], places: Tensor) -> None:
    assert_as_accurate(*subject, tokens(2, 12), position_ids=places)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_other_attention_functions_give_the_same(name: str, kind: str) -> None:
    model, exact = quantised(dense_model(name), SCHEMES[name])
    model.set_attn_implementation(kind)
    assert fuse(model) is None
    for shape in SHAPES:
        assert_as_accurate(model, exact, tokens(*shape))


def last_states(model: nn.Module, ids: Tensor) -> Tensor:
    """ids (B, T) -> (B, T, D) behind the blocks: torch's head, for one, depends on the number of threads."""
    with torch.no_grad():
        return model.model(input_ids=ids, use_cache=False).last_hidden_state


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    model, before = fused_model("qwen3"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = [last_states(model, tokens(*shape)) for shape in SHAPES]
        torch.set_num_threads(threads)
        for shape, y in zip(SHAPES, expected, strict=True):
            assert torch.equal(last_states(model, tokens(*shape)), y)
    finally:
        torch.set_num_threads(before)


# --- generation


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=["greedy", "beams", "static"]
)
def test_generation_gives_the_same_tokens(subject: tuple[nn.Module, nn.Module], options: dict) -> None:
    model, _ = subject
    ids, mask = tokens(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[0, :4] = 0
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 1, **options}
    for given in (None, mask):
        ours = model.generate(ids, attention_mask=given, **settings)
        with plain_blocks(model):
            assert torch.equal(model.generate(ids, attention_mask=given, **settings), ours)
    assert ours.shape == (2, 23)


def test_sampling_runs_and_repeats_with_its_seed(subject: tuple[nn.Module, nn.Module]) -> None:
    model, _ = subject
    drawn, settings = [], {"temperature": 9.0, "eos_token_id": None, "pad_token_id": 1}
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(tokens(2, 5), max_new_tokens=10, do_sample=True, **settings))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_hidden_states_are_recorded(subject: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = subject[0], Calls(monkeypatch)
    with torch.no_grad():
        ours = model(input_ids=tokens(2, 12), output_hidden_states=True).hidden_states
        assert calls.count == 2
        with plain_blocks(model):
            plain = model(input_ids=tokens(2, 12), output_hidden_states=True).hidden_states
    assert len(ours) == len(plain) == 3
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("asked_by", ["call", "config"])
def test_blocks_step_aside_where_attention_weights_are_asked_for(
    name: str, asked_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = fused_model(name), Calls(monkeypatch)
    model.set_attn_implementation("eager")
    if asked_by == "config":
        model.config.output_attentions = True
    with torch.no_grad():
        seen = model(input_ids=tokens(2, 12), **({"output_attentions": True} if asked_by == "call" else {})).attentions
    assert [weights.shape for weights in seen] == 2 * [(2, 4, 12, 12)]
    assert calls.count == 0
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 4, 12))


# --- from a checkpoint


@pytest.mark.parametrize("name", list(MODELS))
def test_a_loaded_checkpoint_is_fused_and_computes_what_was_stored(name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    save_text(text)
    folder = save_tiny(name, tmp_path / "model", head_dim=32, **MODELS[name])
    quantize(str(folder), tmp_path / "out", Recipe(LinearSpec.parse("W4A16g32"), "rtn", {}, DataSpec(str(text), 4, 24)))
    model = load(tmp_path / "out")
    assert model.omniq_unfused is None
    assert all(isinstance(block.forward, FusedBlock) for block in model.model.layers)
    ours = logits(model, tokens(2, 24))
    with plain_blocks(model):
        torch.testing.assert_close(ours, logits(model, tokens(2, 24)), rtol=1e-4, atol=1e-4)
