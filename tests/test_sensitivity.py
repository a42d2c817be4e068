"""Measured sensitivity: the gradients are the model's own, and the estimate ranks as the divergence itself does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from subjects import Tiny
from tiny import tokens
from torch import Tensor

from omniq.calibrate.run import Settings
from omniq.calibrate.sensitivity import TOKENS, measured_shape, sensitivities
from omniq.grid import encode, minmax_grid
from omniq.spec import QuantSpec

GRIDS = [QuantSpec(bits, 16) for bits in (2, 3, 4, 8)]
IDS = tokens(8, 32)


def divergence(tiny: Tiny, name: str, spec: QuantSpec, ids: Tensor) -> float:
    """Mean KL in nats per token when one linear alone is quantised, in float64."""
    model = tiny.dense.double()
    linear = model.get_submodule(name)
    original = linear.weight.data
    with torch.no_grad():
        p = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        rounded = encode(original.float(), *minmax_grid(original.float(), spec, torch.float32), spec, torch.float32)
        linear.weight.data = rounded.dequantize().double()
        q = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    linear.weight.data = original
    return float((p.exp() * (p - q)).sum(-1).mean())


def ranks(values: list[float]) -> Tensor:
    return torch.tensor(values).argsort().argsort().double()


def rank_correlation(a: list[float], b: list[float]) -> float:
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "falcon-rw", "mixtral"])
def test_the_estimate_orders_linears_and_bits_as_the_divergence_of_each_alone(name: str) -> None:
    tiny = Tiny(name, "W4A16g16")
    found = sensitivities(tiny.subject, IDS, Settings(batch=2), GRIDS)
    assert list(found.losses) == list(tiny.subject.specs)
    first = [n for n in tiny.subject.specs if n.startswith(f"{tiny.subject.blocks}.0.")]
    chosen = [n for n in first if "experts.1." not in n and "experts.2." not in n]
    pairs = [(found.losses[n][index], divergence(tiny, n, GRIDS[index], IDS)) for n in chosen for index in (0, 1)]
    estimated, measured = map(list, zip(*pairs, strict=True))
    assert rank_correlation(estimated, measured) > 0.85
    assert 0.3 < sum(estimated) / sum(measured) < 3


def test_more_bits_cost_less_and_eight_next_to_nothing() -> None:
    tiny = Tiny("llama", "W4A16g16")
    for losses in sensitivities(tiny.subject, IDS, Settings(batch=2), GRIDS).losses.values():
        assert list(losses) == sorted(losses, reverse=True)
        assert losses[3] < losses[0] / 100


def test_the_size_of_a_batch_does_not_matter_and_the_seed_alone_decides_what_is_drawn() -> None:
    tiny = Tiny("llama", "W4A16g16")
    one, three = (sensitivities(tiny.subject, IDS, Settings(batch=b), GRIDS).losses for b in (1, 3))
    assert one == three
    again, other = (sensitivities(tiny.subject, IDS, Settings(batch=1, seed=s), GRIDS).losses for s in (0, 1))
    assert again == one
    assert other != one


@pytest.mark.parametrize("name", ["llama", "stablelm", "phi"])
def test_linears_that_read_one_tensor_are_seen_with_and_without_a_table(name: str) -> None:
    tiny = Tiny(name, "W4A16g16")
    view, _ = tiny.view()
    wanted = {(f"{view.name}.{a}", f"{view.name}.{b}") for group in view.reading_order() for a, b in pairwise(group)}
    found = sensitivities(tiny.subject, IDS, Settings(batch=2), GRIDS[:1]).together
    assert wanted
    assert {pair for pair in found if pair[0].startswith(view.name + ".")} == wanted


def test_the_skeleton_is_left_as_it_was() -> None:
    tiny = Tiny("llama", "W4A16g16")
    sensitivities(tiny.subject, IDS, Settings(batch=2), GRIDS[:1])
    assert all(param.is_meta for param in tiny.subject.skeleton.parameters())
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in tiny.subject.skeleton.modules()]
    assert not any(hooks)


def test_a_few_thousand_tokens_are_looked_at_in_whole_sequences() -> None:
    assert measured_shape(128, 2048) == (TOKENS // 2048, 2048)
    assert measured_shape(3, 100) == (3, 100)
    assert measured_shape(2, 2 * TOKENS) == (1, 2 * TOKENS)
