"""The CUDA packer against the tensor cores' fragment layouts, as the PTX manual defines them, emulated in numpy.

What a lane holds goes through the library's own unpacking (its host half, the same source as the device's), is placed
where mma reads it, multiplied, and read where mma leaves it: the sum must be the product with the codes.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from torch import Tensor

from omniq.kernels import cuda_layout, cuda_library
from omniq.kernels.cuda_wna16 import aligned, planes, wanted_tensors
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

SHAPES = [(32, 32), (40, 96), (1, 64), (33, 200), (65, 7)]


def random_codes(n: int, k: int, bits: int) -> Tensor:
    """Every code, 0 and the largest included."""
    codes = torch.randint(0, 2**bits, (n, k), generator=torch.Generator().manual_seed(n + k), dtype=torch.uint8)
    codes.view(-1)[:2] = torch.tensor([0, 2**bits - 1], dtype=torch.uint8)[: codes.numel()]
    return codes


def library() -> ctypes.CDLL:
    """The compiled library; skips with its own reason where there is none."""
    found, reason = cuda_library.cuda_library()
    if found is None:
        pytest.skip(reason)
    return found


# --- the packer, against the bit positions that problem.h states


def code_at(packed: dict[str, np.ndarray], bits: int, unit: int, step: int, lane: int, place: tuple[int, ...]) -> int:
    """The code of (r, h, i, c, e) of a lane, from the sentence of problem.h for its width."""
    r, h, i, c, e = place
    codes = packed["codes"]
    if bits == 4:
        return codes[unit, step, 4 * lane + 2 * r + i] >> 4 * (4 * e + 2 * c + h) & 15
    if bits == 8:
        return codes[unit, step, 128 * r + 4 * lane + 2 * i + c] >> 8 * (2 * h + e) & 255
    s = step % 2
    low = codes[unit, step // 2, 4 * lane + 2 * s + r] >> 2 * (8 * e + 4 * i + 2 * c + h) & 3
    if bits == 2:
        return low
    return low + 4 * (packed["high"][unit, step // 2, 2 * lane + r] >> 16 * e + 2 * (4 * i + 2 * c + h) + s & 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_code_lies_where_the_layout_says(bits: int, shape: tuple[int, int]) -> None:
    codes = random_codes(*shape, bits)
    packed = {name: t.numpy().view(np.uint32) for name, t in cuda_layout.packed_codes(codes, bits).items()}
    units, steps = cuda_layout.whole_units(shape[0]) // 32, cuda_layout.steps(bits, shape[1])
    found = np.zeros((units * 32, steps * 32), dtype=np.int64)
    for place in np.ndindex(units, steps, 8, 4, 2, 2, 2, 2, 2):
        unit, step, g, t, r, h, i, c, e = place
        row, column = 32 * unit + 16 * r + 8 * h + g, 32 * step + 8 * t + 4 * i + 2 * c + e
        found[row, column] = code_at(packed, bits, unit, step, 4 * g + t, (r, h, i, c, e))
    assert np.array_equal(found[: shape[0], : shape[1]], codes.numpy())
    assert not found[shape[0] :].any()
    assert not found[:, shape[1] :].any()


@pytest.mark.parametrize("groups", [1, 3])
def test_scales_and_zero_points_lie_in_the_order_of_a_lanes_rows(groups: int) -> None:
    values = torch.arange(70.0 * groups).view(70, groups) + 1
    packed = cuda_layout.packed_groups(values, groups + 1)
    assert packed.shape == (3, groups + 1, 8, 4)
    for row in range(96):
        unit, r, h, g = row // 32, row // 16 % 2, row // 8 % 2, row % 8
        expected = values[row].tolist() if row < 70 else [0.0] * groups
        assert packed[unit, :, g, 2 * r + h].tolist() == [*expected, 0.0]


@pytest.mark.parametrize("scheme", [(2, 32), (3, 32), (3, -1), (4, 128), (6, -1), (8, 64)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_checks_expect_what_the_packer_makes(scheme: tuple[int, int], symmetric: bool) -> None:
    spec = QuantSpec(*scheme, symmetric)
    n, k = 40, 384
    grid = torch.ones(n, spec.groups(k))
    packed = cuda_layout.packed_weight(QTensor(random_codes(n, k, spec.bits), grid, grid.to(torch.uint8), spec))
    shape = packed.pop("shape")
    assert (shape.shape, shape.numel()) == ((0, n, k), 0)
    wanted = wanted_tensors(spec, n, k)
    assert {name: tuple(t.shape) for name, t in packed.items()} == {name: s for name, (s, _) in wanted.items()}
    assert all(dtype in (None, packed[name].dtype) for name, (_, dtype) in wanted.items())


# --- unpacking and tensor-core fragments


def as_float(pair: np.ndarray, brain: bool) -> np.ndarray:
    """Words of two 16-bit numbers -> (..., 2) float64, the lower half first."""
    halves = np.stack([pair & 0xFFFF, pair >> 16], -1)
    if brain:
        return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return halves.astype(np.uint16).view(np.float16).astype(np.float64)


def unpacked(bits: int, brain: bool, words: np.ndarray, high: np.ndarray, zeros: int, s: int) -> np.ndarray:
    """One lane's words -> its operands (2, 8, 2) float64: row tile, register 4i + 2c + h, half."""
    out = np.zeros(48, dtype=np.uint32)
    pointer = ctypes.POINTER(ctypes.c_uint32)
    arrays = [np.ascontiguousarray(a, dtype=np.uint32).ctypes.data_as(pointer) for a in (words, high)]
    assert library().omniq_cuda_unpack(bits, brain, *arrays, zeros, s, out.ctypes.data_as(pointer)) == 0
    magic, factor, offset = (as_float(out[part::3], brain) for part in range(3))
    return (magic * factor + offset).reshape(2, 8, 2)


def left_operand(registers: np.ndarray) -> np.ndarray:
    """Registers (32 lanes, 4, 2) of mma.m16n8k16's A -> (16, 16)."""
    a = np.zeros((16, 16))
    for lane, i in np.ndindex(32, 8):
        g, t = lane // 4, lane % 4
        row = g if i in (0, 1, 4, 5) else g + 8
        a[row, 2 * t + i % 2 + (8 if i >= 4 else 0)] = registers[lane, i // 2, i % 2]
    return a


def right_operand(registers: np.ndarray) -> np.ndarray:
    """Registers (32 lanes, 2, 2) of mma.m16n8k16's B -> (16, 8)."""
    b = np.zeros((16, 8))
    for lane, i in np.ndindex(32, 4):
        b[2 * (lane % 4) + i % 2 + (8 if i >= 2 else 0), lane // 4] = registers[lane, i // 2, i % 2]
    return b


def emulated(codes: Tensor, zeros: Tensor, bits: int, brain: bool, x: np.ndarray) -> np.ndarray:
    """(codes - zeros) @ x as the decode kernel computes it; zeros (N,), x (columns of all steps, 8)."""
    packed = {name: t.numpy().view(np.uint32) for name, t in cuda_layout.packed_codes(codes, bits).items()}
    lane_zeros = cuda_layout.packed_groups(zeros.unsqueeze(1), 1).numpy().view(np.uint32)
    units, steps = lane_zeros.shape[0], cuda_layout.steps(bits, codes.shape[1])
    y = np.zeros((units * 32, 8))
    none = np.zeros(2, dtype=np.uint32)
    for unit, step in np.ndindex(units, steps):
        at, s = (step, 0) if bits == 4 else (step // 2, step % 2)
        words = packed["codes"][unit, at].reshape(32, 4)
        tops = packed["high"][unit, at].reshape(32, 2) if bits == 3 else np.tile(none, (32, 1))
        z = lane_zeros[unit, 0, :, 0].repeat(4).tolist()
        a = np.stack([unpacked(bits, brain, words[v], tops[v], z[v], s) for v in range(32)])
        # Lane 4g + t loads 8 neighbouring activations of token g: two registers for each of two products.
        b = np.stack([x[32 * step + 8 * (v % 4) :][:8, v // 4].reshape(2, 2, 2) for v in range(32)])
        for r, i in np.ndindex(2, 2):
            part = left_operand(a[:, r, 4 * i : 4 * i + 4]) @ right_operand(b[:, i])
            # C: registers 2h + column hold row 8h + g, columns 2t and 2t + 1: rows and tokens in their own order.
            y[32 * unit + 16 * r :][:16] += part
    return y


@pytest.mark.parametrize("brain", [False, True], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(40, 96), (7, 33)], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_unpacked_fragments_multiply_to_the_product_with_the_codes(
    bits: int, shape: tuple[int, int], brain: bool
) -> None:
    library()
    (n, k), codes = shape, random_codes(*shape, bits)
    zeros = torch.arange(n) % 2**bits
    x = np.zeros((cuda_layout.steps(bits, k) * 32, 8))
    x[:k] = np.random.default_rng(0).integers(-100, 100, (k, 8))
    expected = (codes.numpy().astype(np.int64) - zeros.numpy()[:, None]) @ x[:k]
    assert np.array_equal(emulated(codes, zeros.to(torch.uint8), bits, brain, x)[:n], expected)


def signed_nibbles(words: np.ndarray) -> np.ndarray:
    """uint32 words -> (..., 8) signed codes, the lowest first."""
    nibbles = words[..., None] >> np.arange(0, 32, 4) & 15
    return np.where(nibbles > 7, nibbles.astype(np.int64) - 16, nibbles.astype(np.int64))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", [(40, 128), (7, 70)], ids=str)
def test_int4_fragments_multiply_to_the_product_of_the_codes(shape: tuple[int, int], bits: int) -> None:
    (n, k), spec = shape, QuantSpec(bits)
    q = QTensor(random_codes(n, k, bits), torch.ones(n, 1), torch.full((n, 1), spec.mid, dtype=torch.uint8), spec)
    packed = cuda_layout.packed_int4(q)
    signed = q.codes.long().numpy() - spec.mid
    assert packed["row_sums"].tolist() == signed.sum(1).tolist()
    x = torch.randint(-8, 8, (8, k), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    tokens = cuda_layout.packed_nibbles(x).numpy().view(np.uint32)  # (8, 8 words a slab)
    weights = packed["codes"].numpy().view(np.uint32).reshape(-1, -(-k // 64), 2, 32, 4)
    y = np.zeros((weights.shape[0] * 32, 8), dtype=np.int64)
    for unit, slab, r in np.ndindex(*weights.shape[:3]):
        a, b = np.zeros((16, 64), dtype=np.int64), np.zeros((64, 8), dtype=np.int64)
        for lane in range(32):
            g, t = lane // 4, lane % 4
            own = signed_nibbles(weights[unit, slab, r, lane])
            theirs = signed_nibbles(tokens[g, 8 * slab + 2 * t : 8 * slab + 2 * t + 2])
            # mma.m16n8k64, s4: A's registers start at (g, 8t), (g + 8, 8t), (g, 8t + 32), (g + 8, 8t + 32).
            for register in range(4):
                a[g + 8 * (register % 2), 8 * t + 32 * (register // 2) :][:8] = own[register]
            for register in range(2):
                b[8 * t + 32 * register :, g][:8] = theirs[register]
        y[32 * unit + 16 * r :][:16] += a @ b
    assert np.array_equal(y[:n], signed @ x.numpy().astype(np.int64).T)


# --- activations


def test_three_planes_add_up_to_the_float32_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 40, generator=draw) * 10.0 ** torch.randint(-20, 30, (5, 40), generator=draw)
    x[0, :4] = torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max, 0.0, -0.0])
    high, middle, low = planes(x).double().view(3, 5, 40)
    assert torch.equal(high + middle + low, x.double())


def test_nan_and_infinity_pass_the_planes() -> None:
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    total = planes(x).float().view(3, 1, 4).sum(0)
    assert torch.equal(total.nan_to_num(7.0, 8.0, 9.0), x.nan_to_num(7.0, 8.0, 9.0))


@pytest.mark.parametrize("columns", [64, 33])
def test_what_the_library_reads_is_aligned_and_the_same(columns: int) -> None:
    wide = torch.randn(5, 80, dtype=torch.float32).to(torch.float16)
    for x in (wide[:, 1 : 1 + columns], wide[::2, :columns], wide.T[:columns].T, wide[:, :columns].contiguous()):
        ready = aligned(x, columns)
        assert (ready.stride(1), ready.stride(0) % 8, ready.data_ptr() % 16, ready.shape[1] % 8) == (1, 0, 0, 0)
        assert torch.equal(ready[:, :columns], x)
        assert not ready[:, columns:].any()
