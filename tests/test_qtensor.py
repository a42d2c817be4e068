"""QTensor: the formula, what it refuses, and what it says of its size."""

from __future__ import annotations

import pytest
import torch

from omniq.qtensor import QTensor
from omniq.spec import QuantSpec


def small(symmetric: bool = False) -> QTensor:
    """A (2, 4) weight in two groups of 2."""
    codes = torch.tensor([[0, 7, 2, 3], [1, 1, 6, 0]], dtype=torch.uint8)
    scales = torch.tensor([[0.5, -2.0], [1.0, 0.25]])
    zeros = torch.full((2, 2), 4) if symmetric else torch.tensor([[1, 4], [0, 7]])
    return QTensor(codes, scales, zeros.to(torch.uint8), QuantSpec(3, 2, symmetric))


def test_a_weight_is_code_minus_zero_times_scale_of_its_group() -> None:
    expected = [[-0.5, 3.0, 4.0, 2.0], [1.0, 1.0, -0.25, -1.75]]
    assert small().dequantize().tolist() == expected
    assert small().shape == (2, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_weight_is_rounded_once_to_the_dtype_asked_for(dtype: torch.dtype) -> None:
    q = QTensor(
        torch.tensor([[255]], dtype=torch.uint8),
        torch.tensor([[0.1]]),
        torch.tensor([[0]], dtype=torch.uint8),
        QuantSpec(8),
    )
    exact = torch.tensor([[255.0]], dtype=torch.float64) * torch.tensor([[0.1]]).double()
    assert q.dequantize(dtype).dtype == dtype
    assert torch.equal(q.dequantize(dtype), exact.to(dtype if dtype == torch.float64 else torch.float32).to(dtype))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scales": torch.ones(2, 1)}, r"scales have shape \(2, 1\)"),
        ({"zeros": torch.ones(2, 4, dtype=torch.uint8)}, r"zeros have shape \(2, 4\)"),
        ({"codes": torch.zeros(2, 4)}, "must be uint8"),
        ({"zeros": torch.ones(2, 2)}, "must be uint8"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], words: str) -> None:
    q = small()
    parts = {"codes": q.codes, "scales": q.scales, "zeros": q.zeros} | change
    with pytest.raises(ValueError, match=words):
        QTensor(**parts, spec=q.spec)


def test_equal_compares_every_stored_number_and_the_spec() -> None:
    q = small()
    assert q.equal(small())
    assert not q.equal(QTensor(q.codes.flip(0), q.scales, q.zeros, q.spec))
    assert not q.equal(QTensor(q.codes, q.scales * 2, q.zeros, q.spec))
    assert not q.equal(QTensor(q.codes, q.scales, q.zeros + 1, q.spec))
    assert not q.equal(QTensor(q.codes, q.scales, q.zeros, QuantSpec(4, 2, False)))


def test_bits_per_weight_counts_scales_and_zero_points_that_are_stored() -> None:
    assert small(symmetric=True).bits_per_weight() == 3 + 32 / 2
    assert small().bits_per_weight() == 3 + (32 + 3) / 2
    half = small()
    assert QTensor(half.codes, half.scales.half(), half.zeros, half.spec).bits_per_weight() == 3 + (16 + 3) / 2
