"""Hadamard matrices are what their definition says, and the transform of any width is orthogonal and spreads."""

from __future__ import annotations

import pytest
import torch

from omniq.hadamard import core, factors, hadamard, hartley, has_hadamard, matrix, transformed

ORDERS = [n for n in range(1, 257) if has_hadamard(n)]
WIDTHS = (1, 2, 5, 9, 43, 64, 80, 96, 172, 576, 640, 1536)


@pytest.mark.parametrize("order", ORDERS)
def test_a_hadamard_matrix_has_entries_of_one_and_orthogonal_rows(order: int) -> None:
    h = hadamard(order)
    assert h.abs().eq(1).all()
    assert torch.equal(h @ h.T, order * torch.eye(order, dtype=torch.float64))


def test_the_orders_of_both_of_paleys_kinds_and_of_sylvester_are_there() -> None:
    assert {1, 2, 4, 8, 128, 256} <= set(ORDERS)
    assert {12, 20, 44, 60, 108, 140} <= set(ORDERS), "q + 1 for primes of 3 modulo 4"
    assert {28, 36, 76, 148} <= set(ORDERS), "2 (q + 1) for primes of 1 modulo 4"


@pytest.mark.parametrize("prime", [11, 19, 43])
def test_paleys_first_kind_has_the_quadratic_character_of_row_minus_column(prime: int) -> None:
    """By Euler's criterion. The transposed is a Hadamard matrix as well, but stored weights go with this one."""
    h = hadamard(prime + 1)[1:, 1:]
    for i in range(prime):
        for j in range(prime):
            square = i == j or pow(i - j, (prime - 1) // 2, prime) == 1
            assert float(h[i, j]) == (1 if square else -1)


@pytest.mark.parametrize("order", [0, 3, 6, 22, 92])
def test_an_order_that_is_not_constructed_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order} "):
        hadamard(order)


@pytest.mark.parametrize("order", [1, 3, 43, 172])
def test_the_hartley_transform_is_orthogonal_symmetric_and_flat_at_any_order(order: int) -> None:
    h = hartley(order)
    assert torch.allclose(h @ h, torch.eye(order, dtype=torch.float64), atol=1e-12)
    assert torch.equal(h, h.T)
    assert h.abs().max() <= (2 / order) ** 0.5 + 1e-12


@pytest.mark.parametrize(
    ("width", "wanted"),
    [(576, (36, 16)), (1536, (12, 128)), (640, (20, 32)), (2048, (1, 2048)), (11008, (43, 256)), (14336, (28, 512))],
)
def test_a_width_divides_into_a_small_order_and_a_power_of_two(width: int, wanted: tuple[int, int]) -> None:
    assert factors(width) == wanted


@pytest.mark.parametrize("width", WIDTHS)
def test_the_transform_is_the_kronecker_product_of_its_factors(width: int) -> None:
    m, p = factors(width)
    made = torch.kron(core(m), hadamard(p) / p**0.5)
    assert torch.allclose(matrix(width), made, atol=1e-12)
    assert torch.allclose(made @ made.T, torch.eye(width, dtype=torch.float64), atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_transform_keeps_shape_and_dtype_and_is_as_exact_as_the_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = transformed(x)
    exact = x.double() @ matrix(96)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max()


def test_autocast_does_not_make_the_transform_coarser() -> None:
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transformed(x), transformed(x.clone()))
        inside = transformed(x)
    assert torch.equal(inside, transformed(x))


def test_one_outlier_becomes_equal_in_all_channels() -> None:
    x = torch.zeros(1, 1536)
    x[0, 700] = 1.0
    assert torch.allclose(transformed(x).abs(), torch.full((1, 1536), 1536**-0.5), rtol=1e-5)


def test_gradients_pass_through_the_transform_as_through_its_matrix() -> None:
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 12, dtype=torch.float64)
    (transformed(x) * weights).sum().backward()
    assert torch.allclose(x.grad, weights @ matrix(12).T)
