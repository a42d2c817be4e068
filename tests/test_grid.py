"""Integer grids: the behaviours a faithful quantiser has, and agreement with compressed-tensors on activations."""

from __future__ import annotations

import itertools

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStatus
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from torch import Tensor

from omniq.errors import ModelError, UsageError
from omniq.grid import (
    affine_grid,
    encode,
    extrema,
    fake_quantize,
    fake_quantize_tokens,
    grouped,
    minmax_grid,
    quantize_tokens,
    round_through,
    token_grid,
)
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, QuantSpec, act_spec

SPECS = [QuantSpec(b, g, s) for b, g, s in itertools.product(range(2, 9), (-1, 16), (True, False))]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(weight: Tensor, spec: QuantSpec, dtype: torch.dtype = torch.float32) -> QTensor:
    """Round-to-nearest."""
    return encode(weight, *minmax_grid(weight, spec, dtype), spec, dtype)


def name(value: object) -> str:
    return str(value).replace(" ", "")


# --- weights


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.symmetric], ids=name)
def test_asymmetric_codes_take_at_most_2_to_the_b_values(spec: QuantSpec) -> None:
    q = nearest(randn(8, 512), spec)
    for values in grouped(q.dequantize(), spec).reshape(-1, spec.width(512)):
        assert len(values.unique()) <= 2**spec.bits
    assert int(q.codes.max()) == spec.qmax
    assert int(q.codes.min()) == 0
    assert int(q.zeros.max()) <= spec.qmax


@pytest.mark.parametrize("spec", [s for s in SPECS if s.symmetric], ids=name)
def test_symmetric_codes_have_a_constant_zero_point_and_span_the_full_signed_range(spec: QuantSpec) -> None:
    q = nearest(randn(64, 512), spec)
    assert (q.zeros == 2 ** (spec.bits - 1)).all()
    signed = q.codes.int() - spec.mid
    assert int(signed.min()) == -(2 ** (spec.bits - 1))
    assert int(signed.max()) == 2 ** (spec.bits - 1) - 1


@pytest.mark.parametrize("spec", [s for s in SPECS if s.symmetric], ids=name)
def test_the_end_of_larger_magnitude_is_exact_on_a_symmetric_grid(spec: QuantSpec) -> None:
    weight = randn(16, 64)
    decoded = grouped(nearest(weight, spec).dequantize(), spec)
    largest = grouped(weight, spec).abs().argmax(-1, keepdim=True)
    torch.testing.assert_close(
        decoded.gather(-1, largest), grouped(weight, spec).gather(-1, largest), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_no_weight_moves_by_more_than_the_grid_allows(spec: QuantSpec) -> None:
    weight = randn(16, 64)
    q = nearest(weight, spec)
    error = grouped(q.dequantize() - weight, spec).abs()
    step = q.scales.abs().unsqueeze(-1)
    # Half a step inside the range; up to one step where the far end is clipped (symmetric) or the zero point rounds.
    assert (error <= step * 1.0001).all()
    inside = (grouped(q.codes, spec) > 0) & (grouped(q.codes, spec) < spec.qmax)
    assert (error <= step * 0.5001)[inside].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_an_all_zero_group_stays_zero(spec: QuantSpec, dtype: torch.dtype) -> None:
    weight = randn(4, 64)
    weight[1] = 0
    weight[2, 16:32] = 0
    q = nearest(weight, spec, dtype)
    decoded = q.dequantize()
    assert (decoded[1] == 0).all()
    assert (q.scales[1] == 1).all()
    assert (q.codes[1] == q.zeros[1, 0]).all()
    assert (fake_quantize(weight, *minmax_grid(weight, spec, dtype), spec) == decoded).all()
    assert torch.isfinite(decoded).all()
    if spec.group_size == 16:
        assert (decoded[2, 16:32] == 0).all()


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3, -250.0])
@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_a_constant_group_round_trips_and_has_a_packable_zero_point(spec: QuantSpec, value: float) -> None:
    q = nearest(torch.full((2, 32), value), spec)
    torch.testing.assert_close(q.dequantize(), torch.full((2, 32), value), rtol=1e-6, atol=0)
    assert int(q.zeros.max()) <= spec.qmax


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_a_group_of_one_sign_has_a_packable_zero_point_and_stays_within_one_step(spec: QuantSpec, sign: int) -> None:
    weight = sign * (5 + randn(4, 64).abs())
    q = nearest(weight, spec)
    assert int(q.zeros.max()) <= spec.qmax
    assert (grouped(q.dequantize() - weight, spec).abs() <= q.scales.abs().unsqueeze(-1) * 0.5001).all()


def test_a_group_never_crosses_rows() -> None:
    spec, weight = QuantSpec(4, 16), randn(4, 64)
    changed = weight.clone()
    changed[2, 16:32] *= 100
    same = nearest(weight, spec).dequantize() == nearest(changed, spec).dequantize()
    same[2, 16:32] = True
    assert same.all()


def test_inputs_that_groups_do_not_divide_are_an_error_that_names_divisors() -> None:
    with pytest.raises(UsageError, match=r"in_features=576 is not a multiple of group size 128; .* 64"):
        minmax_grid(randn(2, 576), QuantSpec(4, 128), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_quantising_the_decoded_weight_on_its_own_grid_reproduces_the_codes(
    spec: QuantSpec, dtype: torch.dtype
) -> None:
    q = nearest(randn(64, 128), spec, dtype)
    assert encode(q.dequantize(), q.scales.float(), q.zeros.float(), spec, dtype).equal(q)


# An asymmetric scale rounded to 16 bits no longer spans the group exactly, so its range is not found again.
FOUND_AGAIN = [(spec, dtype) for spec in SPECS for dtype in DTYPES if spec.symmetric or dtype == torch.float32]


@pytest.mark.parametrize(("spec", "dtype"), FOUND_AGAIN, ids=name)
def test_re_quantising_the_decoded_weight_by_its_range_reproduces_the_codes(
    spec: QuantSpec, dtype: torch.dtype
) -> None:
    q = nearest(randn(64, 128), spec, dtype)
    again = nearest(q.dequantize(), spec, dtype)
    assert torch.equal(again.codes, q.codes)
    assert torch.equal(again.zeros, q.zeros)
    torch.testing.assert_close(again.scales, q.scales, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_scales_are_the_values_that_the_storage_dtype_holds(spec: QuantSpec) -> None:
    for dtype in DTYPES:
        scales, zeros = minmax_grid(randn(8, 64), spec, dtype)
        assert torch.equal(scales, scales.to(dtype).float())
        assert torch.equal(encode(randn(8, 64), scales, zeros, spec, dtype).scales.float(), scales)


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_fake_quantisation_gives_the_weight_that_is_stored(spec: QuantSpec) -> None:
    weight = randn(16, 64)
    scales, zeros = minmax_grid(weight, spec, torch.bfloat16)
    stored = encode(weight, scales, zeros, spec, torch.bfloat16)
    assert torch.equal(fake_quantize(weight, scales, zeros, spec), stored.dequantize())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    weight = randn(2, 32)
    weight[1, 3] = value
    with pytest.raises(ModelError, match=r"\(2, 32\) has NaN or infinite values"):
        nearest(weight, QuantSpec(4))


def test_a_scale_that_its_dtype_cannot_hold_is_refused() -> None:
    with pytest.raises(ModelError, match=r"scales beyond torch\.float16"):
        nearest(torch.full((1, 32), 1e7), QuantSpec(2), torch.float16)


# --- gradients of weights


def test_the_gradient_is_straight_through_inside_the_range_and_zero_outside() -> None:
    spec = QuantSpec(3)
    weight = torch.tensor([[-9.0, -4.0, -0.4, 0.0, 2.6, 3.0, 9.0]], requires_grad=True)
    fake_quantize(weight, torch.ones(1, 1), torch.full((1, 1), 4.0), spec).sum().backward()
    assert weight.grad.tolist() == [[0, 1, 1, 1, 1, 1, 0]]


def test_the_gradient_of_the_scale_is_the_rounding_error_inside_and_the_code_outside() -> None:
    scales = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[-9.0, 0.3, 2.6]])
    fake_quantize(weight, scales, torch.full((1, 1), 4.0), QuantSpec(3)).sum().backward()
    # -9 decodes to -4; 0.3 to 0, off by -0.3; 2.6 to 3, off by 0.4.
    torch.testing.assert_close(scales.grad, torch.tensor([[-4 - 0.3 + 0.4]]))


def test_the_gradient_of_the_zero_point_is_that_of_what_is_clipped() -> None:
    zeros = torch.full((1, 1), 4.0, requires_grad=True)
    weight, scales = torch.tensor([[-9.0, 0.3, 2.6, 9.0, 20.0]]), torch.full((1, 1), 0.5)
    fake_quantize(weight, scales, zeros, QuantSpec(3)).backward(torch.tensor([[1.0, 1.0, 1.0, 10.0, 100.0]]))
    # Clipped values decode to (0 - zero) * scale or (7 - zero) * scale; inside, the zero point comes and goes.
    assert zeros.grad.tolist() == [[-0.5 * (1 + 1 + 10 + 100)]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_reach_both_bounds_and_none_flows_through_the_zero_point(symmetric: bool) -> None:
    spec = QuantSpec(3, 16, symmetric)
    weight = randn(32, 64)
    lo, hi = (0.7 * bound for bound in extrema(weight, spec))
    lo.requires_grad_(), hi.requires_grad_()
    scales, zeros = affine_grid(lo, hi, spec, torch.float32)
    assert scales.requires_grad
    assert not zeros.requires_grad
    fake_quantize(weight, scales, zeros, spec).square().sum().backward()
    # A symmetric grid is decided by one end of each group, and over many groups each end decides somewhere.
    share = 0.2 if symmetric else 0.99
    assert (lo.grad != 0).float().mean() > share
    assert (hi.grad != 0).float().mean() > share


def test_rounding_passes_the_gradient_through() -> None:
    x = torch.tensor([0.4, 1.5, -2.5], requires_grad=True)
    y = round_through(x)
    y.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert y.tolist() == [0, 2, -2]
    assert x.grad.tolist() == [1, 2, 3]
    assert round_through(torch.tensor(1 / 3), torch.bfloat16) == torch.tensor(1 / 3).bfloat16()


# --- activations


def tokens(dtype: torch.dtype, seed: int) -> Tensor:
    """Tokens (2, 9, 96) over six orders of magnitude; among them a zero, a constant, a positive and a negative one."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 9, 96, generator=draw) * 10 ** (6 * torch.rand(2, 9, 1, generator=draw) - 3)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = 0, 3, x[0, 2].abs(), -x[0, 3].abs()
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_activations_are_quantised_bit_for_bit_as_compressed_tensors_does(
    bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    layer = torch.nn.Linear(1, 1)
    layer.quantization_status = QuantizationStatus.FROZEN
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="token", dynamic=True)
    for seed in range(4):
        x = tokens(dtype, seed)
        assert torch.equal(fake_quantize_tokens(x, ActSpec(bits, symmetric)), forward_quantize(layer, x, "input", args))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [ActSpec(b, s) for b in range(2, 9) for s in (True, False)], ids=name)
def test_integer_tokens_decode_to_the_fake_quantised_ones(spec: ActSpec, dtype: torch.dtype) -> None:
    x = tokens(dtype, 0)
    codes, scales, zeros = quantize_tokens(x, spec)
    assert codes.dtype == torch.int8
    assert int(codes.min()) >= -(2 ** (spec.bits - 1))
    assert int(codes.max()) <= 2 ** (spec.bits - 1) - 1
    assert torch.equal((codes.to(dtype) - zeros) * scales, fake_quantize_tokens(x, spec))


def test_sixteen_bits_return_the_input_itself() -> None:
    x = randn(3, 8)
    assert fake_quantize_tokens(x, act_spec(16)) is x


@pytest.mark.parametrize("spec", [ActSpec(4), ActSpec(8), ActSpec(4, symmetric=False)], ids=name)
def test_a_token_is_quantised_without_regard_to_the_others(spec: ActSpec) -> None:
    x = tokens(torch.float32, 0)
    whole = fake_quantize_tokens(x, spec)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fake_quantize_tokens(x[:, order], spec), whole[:, order])
    assert torch.equal(fake_quantize_tokens(torch.cat([x, 1e4 * x], dim=1), spec)[:, :9], whole)
    assert torch.equal(fake_quantize_tokens(x.view(18, 96), spec), whole.view(18, 96))


@pytest.mark.parametrize("spec", [ActSpec(b, s) for b in (4, 8) for s in (True, False)], ids=name)
def test_a_token_stays_within_its_step(spec: ActSpec) -> None:
    x = tokens(torch.float32, 1)
    scales, _ = token_grid(x, spec)
    assert ((fake_quantize_tokens(x, spec) - x).abs() <= scales * 0.5001).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_and_zero_tokens_keep_a_usable_scale(dtype: torch.dtype) -> None:
    x = torch.cat([torch.zeros(1, 32), 1e-3 * randn(1, 32)]).to(dtype)
    for spec in (ActSpec(8), ActSpec(8, symmetric=False)):
        y = fake_quantize_tokens(x, spec)
        assert (y[0] == 0).all()
        torch.testing.assert_close(y[1], x[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_of_a_token_passes_through_to_what_lies_inside_its_range(symmetric: bool) -> None:
    x = randn(4, 64).requires_grad_()
    scales, zeros = (part.detach() for part in token_grid(x, ActSpec(4, symmetric)))
    fake_quantize_tokens(x, ActSpec(4, symmetric)).sum().backward()
    rounded = (x.detach() / scales + zeros).round()
    # The extremes also move the scale, so the values between them are the ones with a gradient of exactly one.
    between = (rounded > -8) & (rounded < 7) & (x != x.amax(-1, keepdim=True)) & (x != x.amin(-1, keepdim=True))
    assert between.sum() > 150
    assert torch.equal(x.grad[between], torch.ones_like(x.grad[between]))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_clipped_grid_spans_a_share_of_the_range_and_saturates_outside(symmetric: bool) -> None:
    x = torch.tensor([[-8.0, -1.0, 0.5, 3.0, 8.0]])
    whole, half = ActSpec(4, symmetric), ActSpec(4, symmetric, clip=0.5)
    assert torch.allclose(token_grid(x, half)[0], token_grid(x, whole)[0] / 2)
    values = fake_quantize_tokens(x, half)
    assert values.abs().max() <= 4.3
    assert (values - x)[0, 2].abs() <= token_grid(x, half)[0].item() / 2 + 1e-6
    codes, scales, zeros = quantize_tokens(x, half)
    assert torch.equal((codes.float() - zeros) * scales, values)


@pytest.mark.parametrize("spec", [QuantSpec(8), QuantSpec(8, symmetric=False)], ids=name)
def test_small_weights_keep_their_size_where_a_scale_in_float16_is_below_its_normal_numbers(spec: QuantSpec) -> None:
    weight = 1e-3 * randn(8, 64)
    q = nearest(weight, spec, torch.float16)
    assert (q.scales.float().abs() < torch.finfo(torch.float16).tiny).all()
    assert (q.dequantize() - weight).abs().max() <= 1.01 * q.scales.float().abs().max()
