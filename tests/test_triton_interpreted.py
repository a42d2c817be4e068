"""Triton kernels under Triton's interpreter, on the CPU. test_triton.py runs this file with TRITON_INTERPRET=1.

What the interpreter does differently, and what is done about it:
- dots of bfloat16 are garbage and bfloat16 is not rounded to nearest: without PTX the kernels multiply float32 and
  round by hand (unpack.py, rounding.py), so the tensor-core arithmetic itself is not tested here;
- there is no PTX: test_triton.py runs the PTX text through a small model of the instructions instead;
- reads and writes out of bounds go through silently: the last tests here put poison around every buffer;
- programs run one after the other: races do not show;
- Triton 3.6 with NumPy 2.4 or newer cannot loop over a run-time number: this file is then skipped.
"""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="needs triton: pip install omniq[triton]")
if not triton.knobs.runtime.interpret:
    pytest.skip("runs inside test_triton.py, with TRITON_INTERPRET=1", allow_module_level=True)
if triton.__version__ < "3.7" and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
    pytest.skip(f"Triton {triton.__version__} cannot interpret with NumPy {numpy.__version__}", allow_module_level=True)

from test_kernels import random_qtensor  # noqa: E402

from omniq.grid import fake_quantize_tokens, quantize_tokens  # noqa: E402
from omniq.kernels import triton_wna16, triton_wnai8  # noqa: E402
from omniq.kernels._triton.table import Tile  # noqa: E402
from omniq.kernels.dispatch import KERNELS  # noqa: E402
from omniq.qtensor import QTensor  # noqa: E402
from omniq.spec import ActSpec, LinearSpec  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FLOATS = ["W4A16g32", "W4A16-asym", "W3A16g16-asym", "W2A16g48", "W5A16g32", "W7A16-asym", "W8A16g32-asym", "W8A16"]
INTEGERS = [
    "W4A4",
    "W4A8g32",
    "W4A6g96-asym",
    "W3A8g32-asym-actasym",
    "W3A4",
    "W2A8-asym-actasym",
    "W6A6g32-actasym",
    "W8A8g32-asym-actasym",
    "W8A8-asym",
]
SMALL = Tile(64, 16, 4, 2, 1)


def module(spec: LinearSpec):
    """The module whose `multiplied` runs this scheme."""
    return triton_wnai8 if spec.input else triton_wna16


def kernel(spec: LinearSpec):
    """The registered kernel that runs this scheme on a GPU."""
    return KERNELS["triton_wnai8" if spec.input else "triton_wna16"]


def tokens(m: int, k: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_error_ratio(x: Tensor, y: Tensor, q: QTensor, spec: LinearSpec) -> None:
    """At most twice the error of plain torch in the same dtype, both against float64."""
    weight, x = q.dequantize(torch.float64), fake_quantize_tokens(x, spec.input)
    exact = x.double() @ weight.T
    allowed = 2 * (x @ weight.to(x.dtype).T - exact).abs().max()
    assert (y.dtype, y.shape) == (x.dtype, exact.shape)
    assert (y.double() - exact).abs().max() <= allowed, float(allowed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", FLOATS + INTEGERS)
def test_error_is_at_most_twice_that_of_plain_torch(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (72, 96), dtype)
    packed = kernel(spec).prepack(q, spec)
    for m in (1, 19):
        x = tokens(m, 96, dtype, m)
        assert_error_ratio(x, kernel(spec).apply(x, packed, spec), q, spec)


@pytest.mark.parametrize("shape", [(1, 32), (5, 33), (130, 160)], ids=str)
@pytest.mark.parametrize("scheme", ["W2A16", "W3A16", "W4A16-asym", "W8A16", "W4A8", "W3A8-asym-actasym", "W8A4-asym"])
def test_odd_shapes_hold_to_the_same_rule(scheme: str, shape: tuple[int, int]) -> None:
    spec = LinearSpec.parse(scheme)
    q, x = random_qtensor(spec.weight, shape, torch.float16), tokens(3, shape[1], torch.float32)
    assert_error_ratio(x, kernel(spec).apply(x, kernel(spec).prepack(q, spec), spec), q, spec)


@pytest.mark.parametrize("scales", DTYPES, ids=str)
def test_scales_of_another_dtype_than_the_input_keep_their_precision(scales: torch.dtype) -> None:
    for scheme in ("W4A16g32", "W4A8g32"):
        spec = LinearSpec.parse(scheme)
        q = random_qtensor(spec.weight, (40, 96), torch.float32)
        q = QTensor(q.codes, (q.scales * 1e-4).to(scales), q.zeros, q.spec)
        x = tokens(3, 96, torch.float32)
        assert_error_ratio(x, kernel(spec).apply(x, kernel(spec).prepack(q, spec), spec), q, spec)


@pytest.mark.parametrize("share", [1, 2, 3])
@pytest.mark.parametrize("scheme", ["W4A16g32", "W2A16", "W4A8g32-actasym", "W4A8-actasym"])
def test_programs_that_share_a_result_keep_the_rule_and_give_the_same_bits(scheme: str, share: int) -> None:
    spec, dtype = LinearSpec.parse(scheme), torch.float16
    q, x = random_qtensor(spec.weight, (40, 576), dtype), tokens(5, 576, dtype)
    packed = kernel(spec).prepack(q, spec)
    y = module(spec).multiplied(x, packed, spec, SMALL, share)
    assert_error_ratio(x, y, q, spec)
    assert torch.equal(module(spec).multiplied(x, packed, spec, SMALL, share), y)


def test_many_tokens_take_several_blocks() -> None:
    for scheme in ("W4A16g32", "W4A8g32"):
        spec = LinearSpec.parse(scheme)
        q, x = random_qtensor(spec.weight, (130, 64), torch.float16), tokens(37, 64, torch.float16)
        packed = kernel(spec).prepack(q, spec)
        for tile in (SMALL, Tile(128, 8, 4, 2, 1)):
            assert_error_ratio(x, module(spec).multiplied(x, packed, spec, tile, 99), q, spec)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", ["W4A16g32", "W3A16-asym", "W2A16g16-asym", "W8A16g32-asym"])
def test_the_expanded_weight_is_the_dequantised_weight(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (70, 96), dtype)
    packed = triton_wna16.TritonWnA16().prepack(q, spec)
    assert torch.equal(triton_wna16.expanded(packed, spec, tokens(1, 1, dtype)), q.dequantize(dtype))


def test_enough_tokens_are_multiplied_with_the_expanded_weight() -> None:
    spec = LinearSpec.parse("W4A16g32")
    q, x = random_qtensor(spec.weight, (40, 96), torch.bfloat16), tokens(512, 96, torch.bfloat16)
    y = kernel(spec).apply(x, kernel(spec).prepack(q, spec), spec)
    assert torch.equal(y, x @ q.dequantize(torch.bfloat16).T)


# --- the input's integers


def unusual(dtype: torch.dtype) -> Tensor:
    """Rows (8, 96): usual, zeros, one outlier, one sign, the ends of float16, subnormal, nearly constant, ties."""
    x = tokens(8, 96, torch.float32)
    x[1] = 0
    x[2, 5] = 1000
    x[3] = x[3].abs()
    x[4, :2] = torch.tensor([65504.0, -65504.0])
    x[5] = x[5] * 1e-7
    x[6] = 3 + x[6] * 1e-3
    x[7] = torch.arange(96) / 2 - 24
    return x.to(dtype)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_get_the_same_integers_as_in_grid(dtype: torch.dtype, bits: int, symmetric: bool) -> None:
    spec, x = ActSpec(bits, symmetric), unusual(dtype)
    codes, scales, zeros = triton_wnai8.quantized_tokens(x, spec, 128)
    expected, grid, shift = quantize_tokens(x, spec)
    assert torch.equal(scales, grid[:, 0].float())
    assert torch.equal(codes, torch.nn.functional.pad(expected, (0, 32)))
    assert symmetric or torch.equal(zeros, shift[:, 0].int())


def test_a_token_with_a_nan_or_an_infinity_is_not_finite_and_the_others_are_unharmed() -> None:
    for scheme in ("W4A16g32", "W4A8g32"):
        spec = LinearSpec.parse(scheme)
        packed = kernel(spec).prepack(random_qtensor(spec.weight, (40, 96), torch.float32), spec)
        for dtype in DTYPES:
            x = tokens(4, 96, dtype)
            clean = kernel(spec).apply(x, packed, spec)
            x[1, 7], x[2, 9] = float("nan"), float("inf")
            y = kernel(spec).apply(x, packed, spec)
            assert not y[1:3].isfinite().any()
            assert torch.equal(y[::3], clean[::3])


# --- buffers


def test_no_rows_give_no_rows_and_a_strided_input_the_same_result() -> None:
    for scheme in ("W4A16g32", "W4A8g32"):
        spec = LinearSpec.parse(scheme)
        packed = kernel(spec).prepack(random_qtensor(spec.weight, (40, 96), torch.float32), spec)
        assert kernel(spec).apply(torch.empty(0, 96), packed, spec).shape == (0, 40)
        x = tokens(96, 6, torch.float16).T
        expected = kernel(spec).apply(x.contiguous(), packed, spec)
        assert torch.equal(kernel(spec).apply(x, packed, spec), expected)
        assert torch.equal(kernel(spec).apply(torch.stack([x, x], 1)[:, 1], packed, spec), expected)


def fenced(tensor: Tensor, poison: float) -> tuple[Tensor, Tensor]:
    """(the same values in the middle of a larger buffer, that buffer): `poison` on both sides."""
    whole = torch.full((tensor.numel() + 2 * 4096,), poison).to(tensor.dtype)
    inner = whole[4096:-4096].view(tensor.shape)
    inner.copy_(tensor)
    return inner, whole


def is_fenced(whole: Tensor, poison: float) -> bool:
    """Whether both sides still hold the poison, bit for bit."""
    sides = torch.cat([whole[:4096], whole[-4096:]])
    return torch.equal(sides.view(torch.uint8), torch.full_like(sides, poison).view(torch.uint8))


@pytest.mark.parametrize("share", [1, 99])
@pytest.mark.parametrize("scheme", ["W3A16g16-asym", "W4A16", "W8A8g32-asym-actasym", "W2A8"])
def test_nothing_outside_the_buffers_is_written_or_matters(
    scheme: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, fences = LinearSpec.parse(scheme), []
    packed = kernel(spec).prepack(random_qtensor(spec.weight, (70, 160), torch.float16), spec)
    x = tokens(5, 160, torch.float16)
    expected = module(spec).multiplied(x, packed, spec, SMALL, share)

    def keep(tensor: Tensor, poison: float) -> Tensor:
        inner, whole = fenced(tensor, poison)
        fences.append((whole, poison))
        return inner

    def poisoned(like: Tensor, *size: int, dtype: torch.dtype | None = None, device: str | None = None) -> Tensor:
        dtype = dtype or like.dtype
        if device:  # the interpreter's own call
            return torch.empty(*size, dtype=dtype)
        poison = float("nan") if dtype.is_floating_point else 77
        return keep(torch.full(torch.Size(size), poison).to(dtype), poison)

    inside = {name: keep(value, 113) if name != "extent" else value for name, value in packed.items()}
    x = keep(x, float("nan"))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    y = module(spec).multiplied(x, inside, spec, SMALL, share)
    assert torch.equal(y, expected)
    assert all(is_fenced(whole, poison) for whole, poison in fences)


@pytest.mark.parametrize("scheme", ["W4A16", "W3A16-asym", "W4A8", "W8A8-asym-actasym"])
def test_what_fills_the_padding_changes_nothing(scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q, x = random_qtensor(spec.weight, (70, 100), torch.float16), tokens(5, 100, torch.float16)
    packed = kernel(spec).prepack(q, spec)
    full = QTensor(torch.full_like(q.codes, q.spec.qmax), q.scales, q.zeros, q.spec)
    filled = packed | {"words": packed["words"] | ~kernel(spec).prepack(full, spec)["words"]}
    assert not torch.equal(filled["words"], packed["words"])
    assert torch.equal(kernel(spec).apply(x, filled, spec), kernel(spec).apply(x, packed, spec))
