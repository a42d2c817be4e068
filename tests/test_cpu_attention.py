"""Attention inside the CPU library against softmax attention written out in float64."""

from __future__ import annotations

import pytest
import torch
from cpu_subjects import DTYPES, ISAS, needs_library, random_weight
from torch import Tensor

from omniq.kernels.cpu_block import LINEARS, PackedBlock, PackedLayer, Shape
from omniq.kernels.cpu_layout import packed_weight
from omniq.spec import QuantSpec

pytestmark = needs_library
LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 130)
SCALING = 0.2


def block(heads: int, kv_heads: int, size: int) -> PackedBlock:
    """A block of which only the heads matter."""
    spec = QuantSpec(8)
    layer = PackedLayer(packed_weight(random_weight(spec, (32, 32))), spec, None)
    norms = {"input": torch.ones(32), "mlp": torch.ones(32)}
    return PackedBlock(dict.fromkeys(LINEARS, layer), norms, Shape(heads, kv_heads, size, 1e-6, SCALING, "silu", 4))


def heads_of(batch: int, heads: int, length: int, size: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(batch, heads, length, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, work: torch.dtype = torch.float64) -> Tensor:
    """q (B, H, T, D) over k, v (B, kv heads, S, D) -> (B, T, H * D): query t sees the first S - T + t + 1 keys."""
    share = q.shape[1] // k.shape[1]
    k, v = (x.to(work).repeat_interleave(share, 1) for x in (k, v))
    scores = q.to(work) @ k.transpose(2, 3) * SCALING
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)


def assert_near(y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Twice the error of plain torch in float32 on the same numbers, then one rounding to the dtype."""
    exact = softmax_attention(q, k, v)
    plain = (softmax_attention(q, k, v, torch.float32).double() - exact).abs().max()
    # exp() is good to about 1e-7 here, as it is in torch: no error smaller than that can be asked for.
    floor = 4 * torch.finfo(torch.float32).eps * v.double().abs().max()
    rounding = 0 if y.dtype == torch.float32 else torch.finfo(y.dtype).eps / 2 * exact.abs().max()
    assert (y.double() - exact).abs().max() <= 2 * plain + floor + rounding


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("earlier", [0, 1, 40, 64, 100])
def test_attention_is_softmax_attention(earlier: int, dtype: torch.dtype, isa: str, use_isa) -> None:
    use_isa(isa)
    for length in LENGTHS:
        q, k, v = (
            heads_of(2, 2, n, 32, dtype, seed) for seed, n in enumerate((length, length + earlier, length + earlier))
        )
        assert_near(block(2, 2, 32).attend(q, k, v), q, k, v)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [1, 17])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(1, 1, 32), (4, 1, 64), (6, 2, 96), (9, 3, 64), (8, 8, 128), (2, 1, 256)]
)
def test_grouped_heads_and_every_head_size(
    heads: int, kv_heads: int, size: int, length: int, isa: str, use_isa
) -> None:
    use_isa(isa)
    q = heads_of(3, heads, length, size, torch.float32, 0)
    k, v = (heads_of(3, kv_heads, length + 20, size, torch.float32, seed) for seed in (1, 2))
    assert_near(block(heads, kv_heads, size).attend(q, k, v), q, k, v)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 3, 20])
def test_keys_and_values_may_lie_in_a_larger_cache(length: int, dtype: torch.dtype) -> None:
    q, room = heads_of(2, 4, length, 32, dtype, 0), torch.full((2, 2, 2, 90, 32), float("nan"), dtype=dtype)
    k, v = room[0, :, :, 7 : 27 + length], room[1, :, :, 7 : 27 + length]
    k.copy_(heads_of(2, 2, 20 + length, 32, dtype, 1))
    v.copy_(heads_of(2, 2, 20 + length, 32, dtype, 2))
    expected = block(4, 2, 32).attend(q, k.contiguous(), v.contiguous())
    assert torch.equal(block(4, 2, 32).attend(q, k, v), expected)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    assert torch.equal(block(4, 2, 32).attend(q, *turned), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [1, 5, 17, 70])
def test_extreme_scores_do_not_overflow(length: int, sign: int, size: float, isa: str, use_isa) -> None:
    use_isa(isa)
    q, k, v = (heads_of(1, 2, n, 32, torch.float32, i) for i, n in enumerate((length, length + 9, length + 9)))
    q = q.abs() * (size / 6 / SCALING)
    k = k.abs() * sign
    y, exact = block(2, 2, 32).attend(q, k, v), softmax_attention(q, k, v)
    assert y.isfinite().all()
    if size == 1e4:  # beyond, neighbouring scores differ by more than float32 can say
        plain = softmax_attention(q, k, v, torch.float32).double()
        assert (y.double() - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-3


@pytest.mark.parametrize("length", [2, 17, 70])
def test_a_later_token_has_no_influence_however_large(length: int) -> None:
    q, k, v = (heads_of(1, 2, length, 32, torch.float32, seed) for seed in range(3))
    expected = block(2, 2, 32).attend(q, k, v)
    k[:, :, -1] *= 1e6
    v[:, :, -1] *= 1e6
    assert torch.equal(block(2, 2, 32).attend(q, k, v)[:, :-1], expected[:, :-1])


def test_equal_scores_give_the_mean() -> None:
    for length, known in ((1, 7), (1, 65), (40, 100)):
        q = torch.zeros(1, 2, length, 32)
        k, v = heads_of(1, 1, known, 32, torch.float32, 0), heads_of(1, 1, known, 32, torch.float32, 1)
        y = block(2, 1, 32).attend(q, k, v)
        torch.testing.assert_close(y[0, -1, :32], v[0, 0].mean(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(y[0, 0, 32:], v[0, 0, : known - length + 1].mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_attention_does_not_depend_on_the_rows_behind_it(dtype: torch.dtype) -> None:
    # Lengths above one go through tiles of sixteen queries; the last tile may be any size.
    q, k, v = (heads_of(1, 2, 70, 32, dtype, seed) for seed in range(3))
    whole = block(2, 2, 32).attend(q, k, v)
    for length in (2, 15, 16, 33, 64, 65):
        part = block(2, 2, 32).attend(q[:, :, :length].contiguous(), k[:, :, :length], v[:, :, :length])
        assert torch.equal(part, whole[:, :length]), length
