"""Which linear gets how many bits: the allocation is the best there is, and what must be equal is equal."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from omniq.calibrate.allocation import allocate, fused_groups
from omniq.errors import UsageError
from omniq.models.adapter import ADAPTERS

LLAMA = ADAPTERS["llama"]
BLOCK = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def case(seed: int, groups: int, bits: tuple[int, ...]) -> tuple[list[int], list[list[float]]]:
    """Weights of each group, and its losses: mostly falling with the bits, now and then not."""
    draw = random.Random(seed)
    weights = [draw.choice((1, 3, 64, 192, 1000, 1537)) for _ in range(groups)]
    losses = [[draw.random() * 4.0 ** -(b - 2) * draw.choice((1, 1, 30)) for b in bits] for _ in range(groups)]
    return weights, losses


def cost(weights: list[int], bits: tuple[int, ...]) -> int:
    return sum(w * b for w, b in zip(weights, bits, strict=True))


def total(losses: list[list[float]], choices: tuple[int, ...], bits: tuple[int, ...]) -> float:
    return sum(row[choices.index(b)] for row, b in zip(losses, bits, strict=True))


def brute_force(weights: list[int], losses: list[list[float]], choices: tuple[int, ...], average: Fraction) -> float:
    """The least total of all combinations within the budget."""
    within = (
        bits
        for bits in itertools.product(choices, repeat=len(weights))
        if cost(weights, bits) <= average * sum(weights)
    )
    return min(total(losses, choices, bits) for bits in within)


def by_units(weights: list[int], losses: list[list[float]], choices: tuple[int, ...], average: Fraction) -> float:
    """The same by a table over every number of bits that can be spent."""
    limit = int(average * sum(weights))
    table = [0.0] + [float("inf")] * limit
    for weight, row in zip(weights, losses, strict=True):
        after = [float("inf")] * (limit + 1)
        for bits, loss in zip(choices, row, strict=True):
            for spent in range(weight * bits, limit + 1):
                after[spent] = min(after[spent], table[spent - weight * bits] + loss)
        table = after
    return min(table)


BUDGETS = [((2, 3, 4, 8), (2.0, 2.1, 2.5, 3.0, 3.3, 5.9, 8.0)), ((2, 4, 8), (2.5, 3.0, 5.9)), ((3, 4), (3.0, 3.3))]


@pytest.mark.parametrize(("choices", "average"), [(choices, a) for choices, averages in BUDGETS for a in averages])
def test_no_combination_within_the_budget_is_better(choices: tuple[int, ...], average: float) -> None:
    exact = Fraction(str(average))
    for seed in range(6):
        weights, losses = case(seed, 5, choices)
        bits = allocate(weights, losses, choices, average)
        assert cost(weights, bits) <= exact * sum(weights)
        assert total(losses, choices, bits) == pytest.approx(brute_force(weights, losses, choices, exact), rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_a_model_of_many_layers_is_allocated_as_a_full_table_would(seed: int) -> None:
    draw = random.Random(seed)
    choices = (2, 3, 4, 8)
    weights = [draw.choice((2, 3, 5)) for _ in range(30)]
    losses = [[draw.random() * 4.0 ** -(b - 2) for b in choices] for _ in weights]
    bits = allocate(weights, losses, choices, 3.0)
    assert total(losses, choices, bits) == pytest.approx(by_units(weights, losses, choices, Fraction(3)), rel=1e-12)


def test_layers_of_one_size_and_one_sensitivity_are_quick_although_every_order_of_them_is_as_good() -> None:
    bits = allocate([4096] * 200, [[1.0, 0.25, 0.0625, 0.0]] * 200, (2, 3, 4, 8), 3.0)
    assert bits == (3,) * 200


def test_an_average_written_in_decimals_is_meant_exactly() -> None:
    # 2.3 as a binary fraction lies below 23/10, where the third of ten layers would no longer fit.
    bits = allocate([10] * 10, [[1.0, 0.0]] * 10, (2, 3), 2.3)
    assert sorted(bits) == [2] * 7 + [3] * 3


def test_more_bits_never_make_the_allocation_worse() -> None:
    weights, losses = case(5, 12, (2, 3, 4, 8))
    totals = [
        total(losses, (2, 3, 4, 8), allocate(weights, losses, (2, 3, 4, 8), average / 5)) for average in range(10, 41)
    ]
    assert totals == sorted(totals, reverse=True)


def test_bits_that_gain_nothing_are_not_spent() -> None:
    assert allocate([5, 7], [[1.0, 1.0, 2.0], [3.0, 0.0, 0.0]], (2, 3, 4), 4.0) == (2, 3)


@pytest.mark.parametrize("average", [1.9, 8.1])
def test_an_average_outside_the_choices_is_refused(average: float) -> None:
    with pytest.raises(UsageError, match=r"between 2 and 8"):
        allocate([5], [[1.0, 0.5]], (2, 8), average)


def names(blocks: int, block: tuple[str, ...] = BLOCK) -> list[str]:
    return [f"model.layers.{i}.{name}" for i in range(blocks) for name in block]


def test_what_reads_one_norm_by_the_table_stands_together() -> None:
    groups = fused_groups(names(2), "model.layers", LLAMA, [])
    assert [[n.removeprefix("model.layers.") for n in group] for group in groups] == [
        [f"{i}.{n}" for n in part] for i in range(2) for part in (BLOCK[:3], BLOCK[3:4], BLOCK[4:6], BLOCK[6:])
    ]


def test_without_a_table_what_was_seen_to_read_one_tensor_stands_together() -> None:
    all_names = names(1)
    groups = fused_groups(all_names, "model.layers", None, [all_names[:3], all_names[4:6]])
    assert groups == fused_groups(all_names, "model.layers", LLAMA, [])
    assert fused_groups(all_names, "model.layers", None, []) == tuple((name,) for name in all_names)


def test_the_experts_of_all_layers_stand_together_and_the_shared_one_apart() -> None:
    experts = tuple(f"mlp.experts.{e}.{leaf}" for e in range(3) for leaf in ("gate_proj", "up_proj", "down_proj"))
    block = (*BLOCK[:4], *experts, "mlp.shared_expert.down_proj")
    groups = fused_groups(names(2, block), "model.layers", ADAPTERS["qwen2_moe"], [])
    assert groups[2] == tuple(f"model.layers.{i}.{name}" for i in range(2) for name in experts)
    assert ("model.layers.1.mlp.shared_expert.down_proj",) in groups
    assert sorted(name for group in groups for name in group) == sorted(names(2, block))
