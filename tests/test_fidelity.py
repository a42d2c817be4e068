"""How far each linear is from what it stands for: against float64, for every preset, and cheap by construction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from omniq.calibrate.fidelity import INPUT_ROWS, WEIGHT_ROWS, fidelity, looked_at, sampling
from omniq.grid import encode, fake_quantize_tokens, minmax_grid
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec


def weight(n: int = 48, k: int = 64, seed: int = 0) -> torch.Tensor:
    """A random weight (N, K)."""
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def rounded(wanted: torch.Tensor, spec: QuantSpec) -> QTensor:
    """Round to nearest."""
    return encode(wanted, *minmax_grid(wanted, spec, torch.float32), spec, torch.float32)


@pytest.mark.parametrize("scheme", ["W4A16g16", "W2A16g32-asym", "W8A16", "W4A4", "W4A8-actasym"])
def test_errors_are_those_of_float64(scheme: str) -> None:
    spec, wanted = LinearSpec.parse(scheme), weight()
    q, rows = rounded(wanted, spec.weight), weight(20, 64, 1)
    found = fidelity(q, spec, wanted, rows)
    made, exact = q.dequantize(torch.float64), wanted.double()
    read = fake_quantize_tokens(rows, spec.input).double()
    output = (read @ made.T - rows.double() @ exact.T).square().sum() / (rows.double() @ exact.T).square().sum()
    assert found.output == pytest.approx(float(output), rel=1e-4)
    assert found.weight == pytest.approx(float((made - exact).square().sum() / exact.square().sum()), rel=1e-4)


def test_of_a_tall_weight_the_same_rows_are_looked_at_in_codes_and_weight() -> None:
    spec, wanted = LinearSpec.parse("W4A16g16"), weight(1000, 64)
    found = fidelity(rounded(wanted, spec.weight), spec, looked_at(wanted), weight(20, 64, 1))
    exact = fidelity(rounded(looked_at(wanted), spec.weight), spec, looked_at(wanted), weight(20, 64, 1))
    assert found == exact
    assert len(looked_at(wanted)) <= WEIGHT_ROWS < 1000


def test_a_weight_on_its_grid_has_no_error_and_uses_all_its_codes() -> None:
    codes = (torch.arange(48 * 64) % 16).view(48, 64).to(torch.uint8)
    q = QTensor(codes, torch.full((48, 1), 0.5), torch.full((48, 1), 8, dtype=torch.uint8), QuantSpec(4))
    found = fidelity(q, LinearSpec(q.spec), q.dequantize(), None)
    assert (found.output, found.weight, found.clipped) == (None, 0, 0)
    assert found.code_bits == pytest.approx(4)


def test_weights_beyond_the_grid_are_counted() -> None:
    spec, wanted = QuantSpec(4), torch.zeros(4, 100)
    wanted[:, :8], wanted[:, 8:10] = 7.6, -8.4
    q = QTensor(
        torch.zeros(4, 100, dtype=torch.uint8), torch.ones(4, 1), torch.full((4, 1), 8, dtype=torch.uint8), spec
    )
    found = fidelity(q, LinearSpec(spec), wanted, None)
    assert found.clipped == pytest.approx(0.08), "-8.4 still rounds to the lowest code"
    assert found.code_bits == pytest.approx(0, abs=1e-6)


def test_a_zero_weight_has_finite_figures() -> None:
    wanted = torch.zeros(8, 16)
    found = fidelity(rounded(wanted, QuantSpec(4)), LinearSpec(QuantSpec(4)), wanted, torch.zeros(3, 16))
    assert all(math.isfinite(value) for value in (found.output, found.weight, found.clipped, found.code_bits))


@pytest.mark.parametrize(("calls", "length"), [(1, 500), (4, 100), (200, 8), (3, 1)])
def test_rows_are_few_and_come_from_several_calls(calls: int, length: int) -> None:
    module = nn.ModuleDict({"a": nn.Linear(8, 4), "b": nn.Linear(8, 4)})
    inputs = [torch.randn(1, length, 8) + index for index in range(calls)]
    with torch.no_grad(), sampling(module, ["a", "b"], calls) as rows:
        for x in inputs:
            module["a"](x)
    assert set(rows) == {"a"}, "what no token reached has no rows"
    assert len(rows["a"]) <= INPUT_ROWS
    flat = torch.cat(inputs, 1)[0]
    assert all(any(torch.equal(row, one) for one in flat) for row in rows["a"])
    seen = {index for index, x in enumerate(inputs) if any(torch.equal(row, one) for row in rows["a"] for one in x[0])}
    assert len(seen) >= min(calls, 3)
    assert not module["a"]._forward_pre_hooks
