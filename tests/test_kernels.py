"""Kernels: at most twice the error of plain torch in the same dtype, both against float64; then what dispatch does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.grid import fake_quantize_tokens
from omniq.kernels import dispatch
from omniq.kernels.dispatch import KERNELS, Kernel
from omniq.kernels.reference import decoded, linear
from omniq.kernels.torch_dequant import TorchDequant, field_bits, packed_fields, signed_codes
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, LinearSpec, QuantSpec

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WEIGHTS = [f"W{b}A16{g}{a}" for b, g, a in itertools.product(range(2, 9), ("", "g32"), ("", "-asym"))]
ACTS = ["W4A4", "W4A8g32", "W6A6", "W8A8-asym", "W4A4g32-actasym", "W2A8-asym-actasym"]


def random_qtensor(spec: QuantSpec, shape: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> QTensor:
    """Codes over the whole range, scales of about 1/sqrt(K), of both signs when symmetric."""
    draw = torch.Generator().manual_seed(seed)
    n, k = shape
    grid = (n, spec.groups(k))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    scales = (0.5 + torch.rand(grid, generator=draw)) / (spec.mid * k**0.5)
    zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    if spec.symmetric:
        scales *= torch.randint(0, 2, grid, generator=draw) * 2 - 1
        zeros.fill_(spec.mid)
    return QTensor(codes, scales.to(dtype), zeros, spec)


def takes(name: str, spec: LinearSpec, shape: tuple[int, int]) -> Kernel:
    """The kernel; skips the test with the kernel's own reason where it refuses."""
    if reason := KERNELS[name].refuse(spec, shape, CPU):
        pytest.skip(reason)
    if KERNELS[name].approximate:
        pytest.skip("it rounds more than this rule allows, and its own tests say how much")
    return KERNELS[name]


def assert_error_ratio(
    name: str, spec: LinearSpec, shape: tuple[int, int], dtype: torch.dtype, rows: tuple[int, ...]
) -> None:
    """The error-ratio rule, for inputs of these numbers of rows M together: in few outputs either may be lucky."""
    kernel, q = takes(name, spec, shape), random_qtensor(spec.weight, shape, dtype)
    packed = kernel.prepack(q, spec)
    weight = q.dequantize(torch.float64)
    ours = allowed = torch.zeros((), dtype=torch.float64)
    for m in rows:
        x = torch.randn(m, shape[1], generator=torch.Generator().manual_seed(m)).to(dtype)
        y = kernel.apply(x, packed, spec)
        exact = decoded(x, spec.input, torch.float64) @ weight.T
        plain = (fake_quantize_tokens(x, spec.input) @ weight.to(dtype).T - exact).abs().max()
        # A few outputs may come out nearer in plain torch than anyone can promise: one step of the dtype is no error.
        allowed = max(allowed, 2 * plain, torch.finfo(dtype).eps * exact.abs().max())
        ours = max(ours, (y.double() - exact).abs().max())
        assert (y.dtype, y.shape) == (dtype, (m, shape[0]))
    assert ours <= allowed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", [*WEIGHTS, *ACTS])
@pytest.mark.parametrize("name", list(KERNELS))
def test_error_is_at_most_twice_that_of_plain_torch(name: str, scheme: str, dtype: torch.dtype) -> None:
    assert_error_ratio(name, LinearSpec.parse(scheme), (48, 96), dtype, rows=(1, 3, 17))


@pytest.mark.parametrize("shape", [(1, 32), (5, 33), (129, 160), (64, 1000)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", list(KERNELS))
def test_odd_shapes_and_many_rows_hold_to_the_same_rule(name: str, bits: int, shape: tuple[int, int]) -> None:
    assert_error_ratio(name, LinearSpec(QuantSpec(bits)), shape, torch.float32, rows=(1, 2, 8, 31, 65))


def test_the_reference_is_the_product_of_what_codes_stand_for_in_float32() -> None:
    """By hand: codes (1, 3, 0) less zero point 1, at steps 0.5, and a token of which 2 bits keep four values."""
    q = QTensor(
        torch.tensor([[1, 3, 0]], dtype=torch.uint8),
        torch.tensor([[0.5]]),
        torch.tensor([[1]], dtype=torch.uint8),
        QuantSpec(2, -1, False),
    )
    x = torch.tensor([[-1.0, 2.0, 0.25]])
    assert linear(x, q, LinearSpec(q.spec)).tolist() == [[2.0 * 1.0 - 0.25 * 0.5]]
    # From -1 to 2 in steps of 1, the zero point at code -1: 0.25 becomes 0.
    assert decoded(x, ActSpec(2, symmetric=False), torch.float64).tolist() == [[-1.0, 2.0, 0.0]]
    assert linear(x, q, LinearSpec(q.spec, ActSpec(2, symmetric=False))).tolist() == [[2.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_reference_rounds_once_to_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    q, x = random_qtensor(QuantSpec(4, 32), (40, 96), torch.float32), torch.randn(9, 96).to(dtype)
    exact = (x.double() @ q.dequantize(torch.float64).T).to(dtype)
    found = linear(x, q, LinearSpec(q.spec))
    assert (found == exact).float().mean() > 0.99  # what lies in the middle of two values may fall to either
    torch.testing.assert_close(found, exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("size", [1, 1e-4], ids=["usual", "below the normal range of float16"])
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(KERNELS))
def test_scales_of_another_dtype_than_the_input_keep_their_precision(
    name: str, scales: torch.dtype, size: float
) -> None:
    spec = LinearSpec.parse("W8A16g32")
    kernel, q = takes(name, spec, (40, 96)), random_qtensor(spec.weight, (40, 96), torch.float32)
    q = QTensor(q.codes, (q.scales * size).to(scales), q.zeros, q.spec)
    weight = q.dequantize(torch.float64)
    for dtype in DTYPES:
        x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
        exact = x.double() @ weight.T
        allowed = 2 * (x @ weight.to(dtype).T - exact).abs().max()
        assert (kernel.apply(x, kernel.prepack(q, spec), spec).double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("scheme", ["W4A16g32", "W4A8"])
@pytest.mark.parametrize("name", list(KERNELS))
def test_no_rows_give_no_rows(name: str, scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    kernel = takes(name, spec, (40, 96))
    packed = kernel.prepack(random_qtensor(spec.weight, (40, 96), torch.float32), spec)
    assert kernel.apply(torch.empty(0, 96), packed, spec).shape == (0, 40)


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_strided_input_gives_the_same_result(name: str) -> None:
    spec = LinearSpec.parse("W4A16g32")
    kernel = takes(name, spec, (40, 96))
    packed = kernel.prepack(random_qtensor(spec.weight, (40, 96), torch.float32), spec)
    wide = torch.randn(96, 6)
    torch.testing.assert_close(kernel.apply(wide.T, packed, spec), kernel.apply(wide.T.contiguous(), packed, spec))


@pytest.mark.parametrize("scheme", ["W4A16g32", "W3A4-asym"])
@pytest.mark.parametrize("name", list(KERNELS))
def test_the_same_input_gives_the_same_bits(name: str, scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    kernel = takes(name, spec, (40, 96))
    packed = kernel.prepack(random_qtensor(spec.weight, (40, 96), torch.float32), spec)
    x = torch.randn(9, 96)
    first = kernel.apply(x, packed, spec)
    assert all(torch.equal(kernel.apply(x, packed, spec), first) for _ in range(5))


@pytest.mark.parametrize("name", list(KERNELS))
def test_prepacking_leaves_the_weight_unchanged(name: str) -> None:
    spec = LinearSpec.parse("W3A16g32-asym")
    kernel = takes(name, spec, (40, 96))
    q, same = (random_qtensor(spec.weight, (40, 96), torch.float32) for _ in range(2))
    kernel.apply(torch.randn(2, 96), kernel.prepack(q, spec), spec)
    assert q.equal(same)


# --- the reference


def test_the_reference_is_the_definition_written_out() -> None:
    spec = QuantSpec(3, 2, symmetric=False)
    q = QTensor(
        torch.tensor([[0, 7, 2, 3]], dtype=torch.uint8),
        torch.tensor([[0.5, -2.0]]),
        torch.tensor([[1, 4]], dtype=torch.uint8),
        spec,
    )
    x = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    # (0-1)*0.5*1 + (7-1)*0.5*10 + (2-4)*(-2)*100 + (3-4)*(-2)*1000
    assert linear(x, q, LinearSpec(spec)).tolist() == [[-0.5 + 30 + 400 + 2000]]


def test_the_reference_accumulates_in_float32_whatever_the_input() -> None:
    # 1 + 4096 times 2**-12 is 2 exactly, but stays 1 when summed in float16 or bfloat16.
    spec = LinearSpec(QuantSpec(8))
    codes = torch.full((1, 4097), 129, dtype=torch.uint8)
    q = QTensor(codes, torch.ones(1, 1), torch.full((1, 1), 128, dtype=torch.uint8), spec.weight)
    for dtype in DTYPES:
        x = torch.full((1, 4097), 2.0**-12, dtype=dtype)
        x[0, 0] = 1
        assert linear(x, q, spec).item() == 2


def test_the_reference_keeps_leading_dimensions_and_float64() -> None:
    spec = LinearSpec.parse("W4A16g32")
    q = random_qtensor(spec.weight, (40, 96), torch.float32)
    x = torch.randn(2, 3, 96, dtype=torch.float64)
    y = linear(x, q, spec)
    assert y.shape == (2, 3, 40)
    assert torch.equal(y, x @ q.dequantize(torch.float64).T)


# --- the plain-torch path


@pytest.mark.parametrize("columns", [1, 6, 7, 96])
@pytest.mark.parametrize("bits", range(2, 9))
def test_fields_hold_every_signed_code(bits: int, columns: int) -> None:
    codes = torch.randint(0, 2**bits, (5, columns), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mid, width = 2 ** (bits - 1), field_bits(bits)
    fields = packed_fields(codes, mid, width)
    assert fields.shape == (5, -(-columns * width // 8))
    assert torch.equal(signed_codes(fields, width, columns).int(), codes.int() - mid)


@pytest.mark.parametrize("scheme", ["W4A16g32", "W3A16-asym"])
def test_a_weight_larger_than_one_block_is_expanded_in_rows(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LinearSpec.parse(scheme)
    q, x = random_qtensor(spec.weight, (50, 96), torch.float32), torch.randn(7, 96)
    kernel = TorchDequant()
    whole = kernel.apply(x, kernel.prepack(q, spec), spec)
    monkeypatch.setattr("omniq.kernels.torch_dequant.CPU_BLOCK", 96 * 7)
    torch.testing.assert_close(kernel.apply(x, kernel.prepack(q, spec), spec), whole)


def test_four_bits_take_half_a_byte_in_memory() -> None:
    spec = LinearSpec.parse("W4A16g32")
    packed = TorchDequant().prepack(random_qtensor(spec.weight, (64, 128), torch.bfloat16), spec)
    assert sum(tensor.nbytes for tensor in packed.values()) == 64 * 128 // 2 + 64 * 4 * 2


# --- dispatch


class Fake:
    """A kernel that refuses with a sentence, or does not."""

    def __init__(self, priority: int, reason: str | None, approximate: bool = False) -> None:
        self.priority, self.reason, self.approximate = priority, reason, approximate

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        return self.reason

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        return {}

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        return x


class Fakes(dict):
    """Stands in for the registry."""

    def items(self) -> Iterator[tuple[str, Fake]]:
        return iter(super().items())


def test_the_kernel_of_highest_priority_that_takes_the_layer_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(slow=Fake(0, None), quick=Fake(5, None), quickest=Fake(9, "needs a GPU"))
    monkeypatch.setattr(dispatch, "KERNELS", fakes)
    spec = LinearSpec.parse("W4A16")
    assert dispatch.select(spec, (8, 8), CPU) == "quick"
    assert dispatch.refusals(spec, (8, 8), CPU) == {"slow": None, "quick": None, "quickest": "needs a GPU"}


def test_an_approximate_kernel_runs_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(exact=Fake(1, None), rough=Fake(9, None, approximate=True))
    monkeypatch.setattr(dispatch, "KERNELS", fakes)
    spec = LinearSpec.parse("W4A16")
    assert dispatch.select(spec, (8, 8), CPU) == "exact"
    assert "not asked for" in dispatch.refusals(spec, (8, 8), CPU)["rough"]
    assert dispatch.select(spec, (8, 8), CPU, approximate=True) == "rough"


def test_a_layer_that_no_kernel_takes_is_an_error_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "KERNELS", Fakes(a=Fake(1, "needs a GPU"), b=Fake(2, "needs K divisible by 64")))
    with pytest.raises(UnsupportedError, match=r"W4A16.*a: needs a GPU; b: needs K divisible by 64"):
        dispatch.select(LinearSpec.parse("W4A16"), (8, 8), CPU)


def test_the_reference_takes_everything_and_comes_last() -> None:
    assert min(KERNELS, key=lambda name: KERNELS[name].priority) == "reference"
    assert all(
        KERNELS["reference"].refuse(LinearSpec.parse(s), (1, 32), torch.device("meta")) is None for s in WEIGHTS + ACTS
    )


def test_kernels_have_different_priorities() -> None:
    priorities = [kernel.priority for _, kernel in KERNELS.items()]
    assert len(set(priorities)) == len(priorities)
