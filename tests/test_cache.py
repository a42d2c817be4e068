"""The growing cache: what transformers' own cache returns, without copying it at every token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import save_tiny, tokens
from transformers import DynamicCache

from omniq.hf import growing_cache, load_dense
from omniq.hf.cache import SPARE, GrowingLayer


def states(length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, length, 8, generator=torch.Generator().manual_seed(seed))


def test_it_returns_what_the_plain_cache_returns_however_long_the_pieces_are() -> None:
    ours, plain = GrowingLayer(), DynamicCache()
    for seed, length in enumerate([5, 1, 1, SPARE, 1, 7]):
        keys, values = states(length, seed), states(length, seed + 100)
        expected = plain.update(keys, values, 0)
        found = ours.update(keys, values)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert ours.get_seq_length() == plain.get_seq_length(0)


def test_a_token_is_written_behind_the_others_and_nothing_is_copied() -> None:
    layer = GrowingLayer()
    first, _ = layer.update(states(5, 0), states(5, 1))
    then, _ = layer.update(states(1, 2), states(1, 3))
    assert first.data_ptr() == then.data_ptr()


def change_crop(layer) -> None:
    layer.crop(-2)


def change_order(layer) -> None:
    layer.reorder_cache(torch.tensor([1, 0]))


def change_batch(layer) -> None:
    layer.batch_select_indices(torch.tensor([1]))


@pytest.mark.parametrize("change", [change_crop, change_order, change_batch])
def test_it_goes_on_after_others_have_changed_it(change) -> None:
    ours, plain = GrowingLayer(), DynamicCache()
    ours.update(states(6, 0), states(6, 1))
    plain.update(states(6, 0), states(6, 1), 0)
    change(ours)
    change(plain.layers[0])
    batch = ours.keys.shape[0]
    found = ours.update(states(1, 2)[:batch], states(1, 3)[:batch])
    expected = plain.update(states(1, 2)[:batch], states(1, 3)[:batch], 0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_model_writes_the_same_with_it(name: str, tmp_path: Path) -> None:
    model, ids = load_dense(save_tiny(name, tmp_path / "model"), torch.float32), tokens(1, 6)
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **settings)
    assert torch.equal(model.generate(ids, past_key_values=growing_cache(model.config), **settings), expected)
