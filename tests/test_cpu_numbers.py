"""What the CPU kernels compute: exact where integers are, bounded where activations round, sound at the extremes."""

from __future__ import annotations

import pytest
import torch
from cpu_subjects import DTYPES, ISAS, needs_library, product, random_rows, random_weight
from torch import Tensor

from omniq.kernels.cpu_layout import packed_weight
from omniq.kernels.reference import decoded
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

pytestmark = needs_library
SCHEMES = ["W2A16", "W3A16g32", "W4A16g128", "W4A16g20-asym", "W8A16g32-asym"]
BLOCK = 128


def steps(x: Tensor, spec: QuantSpec, levels: float) -> Tensor:
    """x (M, K) -> (M, K) float64: the step of the grid each value is rounded on, largest of its block / levels."""
    parts = [block for group in x.double().split(spec.width(x.shape[1]), -1) for block in group.split(BLOCK, -1)]
    return torch.cat([part.abs().amax(-1, keepdim=True).expand_as(part) / levels for part in parts], -1)


def of_powers_of_two(spec: QuantSpec, shape: tuple[int, int]) -> QTensor:
    """A random weight whose scales are exact in every dtype."""
    q = random_weight(spec, shape)
    return QTensor(q.codes, torch.exp2(torch.randint_like(q.scales, -3, 1)) * q.scales.sign(), q.zeros, spec)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integers_come_out_exactly(scheme: str) -> None:
    # Integers of 14 bits: every product and every sum of 40 of them is a float32.
    spec = LinearSpec.parse(scheme.split("g")[0] + "g20" + ("-asym" if "asym" in scheme else ""))
    q = of_powers_of_two(spec.weight, (70, 40))
    x = torch.randint(-(2**7), 2**7 + 1, (9, 40), generator=torch.Generator().manual_seed(0))
    exact = x.double() @ q.dequantize(torch.float64).T
    for dtype in DTYPES:
        assert torch.equal(product(x.to(dtype), packed_weight(q), spec), exact.to(dtype))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounding_to_eight_bits_leaves_inputs_on_its_grid_exact(scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q = of_powers_of_two(spec.weight, (70, 640))
    x = torch.randint(-127, 128, (9, 640), generator=torch.Generator().manual_seed(0)).float()
    x[:, ::4] = 127  # in every block
    exact = (x.double() @ q.dequantize(torch.float64).T).float()
    assert torch.equal(product(x, packed_weight(q), spec, "cpu_int8"), exact)
    assert torch.equal(product(x * 2.0**-9, packed_weight(q), spec, "cpu_int8"), exact * 2.0**-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounding_to_eight_bits_moves_no_value_by_more_than_half_a_step(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q, x = random_weight(spec.weight, (200, 1280)), random_rows(17, 1280, dtype)
    weight = q.dequantize(torch.float64)
    exact, step = x.double() @ weight.T, steps(x, spec.weight, 127)
    error = product(x, packed_weight(q), spec, "cpu_int8").double() - exact
    allowed = step / 2 @ weight.abs().T + torch.finfo(dtype).eps * (exact.abs() + exact.abs().max() / 8)
    assert (error.abs() <= allowed).all()
    # Uniform in half a step either way: a variance of step**2 / 12 each, independent of each other.
    expected = (step.square() / 12 @ weight.square().T).sum().sqrt() / exact.norm()
    relative = error.norm() / exact.norm()
    assert 0.002 < expected < 0.007
    assert abs(relative - expected) < 0.1 * expected + torch.finfo(dtype).eps / 2, (float(relative), float(expected))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", ["cpu", "cpu_int8"])
def test_zeros_give_zeros(kernel: str, dtype: torch.dtype, isa: str, use_isa) -> None:
    use_isa(isa)
    spec = LinearSpec.parse("W4A16g32-asym")
    x = torch.zeros(3, 96, dtype=dtype)
    assert torch.equal(
        product(x, packed_weight(random_weight(spec.weight, (40, 96))), spec, kernel), torch.zeros(3, 40, dtype=dtype)
    )


def error_and_plain(x: Tensor, q: QTensor, spec: LinearSpec) -> tuple[float, float]:
    """The largest errors of the kernel and of plain torch in the same dtype, against float64."""
    weight = q.dequantize(torch.float64)
    exact = decoded(x, spec.input, torch.float64) @ weight.T
    plain = (x @ weight.to(x.dtype).T).double() - exact
    return float((product(x, packed_weight(q), spec).double() - exact).abs().max()), float(plain.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_outlier_costs_no_more_than_in_plain_torch(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q, x = random_weight(spec.weight, (70, 640)), random_rows(5, 640)
    x[:, 77] = 1e4
    ours, plain = error_and_plain(x.to(dtype), q, spec)
    assert ours <= 2 * plain


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_numbers_of_a_dtype_do_not_overflow_on_the_way(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_weight(spec.weight, (70, 640))
    q = QTensor(q.codes, q.scales / 256, q.zeros, q.spec)
    x = random_rows(5, 640).sign().to(dtype) * torch.finfo(dtype).max
    ours, plain = error_and_plain(x, q, spec)
    assert ours <= 2 * plain


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormal_numbers_are_kept_or_fall_to_zero(dtype: torch.dtype) -> None:
    spec = LinearSpec.parse("W4A16g32")
    q = random_weight(spec.weight, (70, 96))
    x = (random_rows(5, 96) * torch.finfo(dtype).tiny / 4).to(dtype)
    exact = x.double() @ q.dequantize(torch.float64).T
    error = (product(x, packed_weight(q), spec).double() - exact).abs().max()
    # Half of the smallest normal float32 a value, and what the output's dtype can hold.
    allowed = 96 * q.dequantize().abs().max() * 2.0**-127 + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert error <= allowed + exact.abs().max() * torch.finfo(dtype).eps


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", ["cpu", "cpu_int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_number_that_is_not_finite_spoils_its_row_and_no_other(
    dtype: torch.dtype, bad: float, kernel: str, isa: str, use_isa
) -> None:
    use_isa(isa)
    spec = LinearSpec.parse("W3A16g20")
    packed = packed_weight(random_weight(spec.weight, (70, 160)))
    x = random_rows(7, 160, dtype)
    expected = product(x, packed, spec, kernel)
    for column in (0, 77, 159):
        spoiled = x.clone()
        spoiled[3, column] = bad
        y = product(spoiled, packed, spec, kernel)
        assert not y[3].isfinite().any()
        assert torch.equal(y[[0, 1, 2, 4, 5, 6]], expected[[0, 1, 2, 4, 5, 6]])
