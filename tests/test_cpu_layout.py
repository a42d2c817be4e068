"""The packed layout of CPU weights against problem.h's description, read here by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_subjects import random_weight
from torch import Tensor

from omniq.kernels.cpu_layout import packed_shapes, packed_weight, stored_bits
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

SHAPES = [(1, 16), (5, 33), (64, 96), (65, 160), (130, 40)]


def field(lines: np.ndarray, bits: int, step: int, byte: int) -> int:
    """The code of `step` in the lines (lines a chunk, 64) of one chunk and strip: the table of problem.h."""
    if bits == 8:
        return int(lines[step, byte])
    if bits == 4:
        return int(lines[step // 2, byte]) >> (4 if step % 2 else 0) & 15
    if bits == 2:
        return int(lines[0, byte]) >> 2 * step & 3
    low = int(lines[step // 4, byte]) >> 2 * (step % 4) & 3
    return low | (int(lines[2, byte]) >> step & 1) << 2


def read_codes(lines: Tensor, spec: QuantSpec, n: int, k: int) -> np.ndarray:
    """(N, K) codes out of one flat run of bytes, found by the arithmetic of problem.h."""
    bits = {2: 2, 3: 3, 4: 4}.get(spec.bits, 8)
    group = spec.group_size if spec.group_size != -1 else k
    columns, per_chunk = (32, 3) if bits == 3 else (16, {2: 1, 4: 2, 8: 4}[bits])
    chunks = -(-group // columns)
    flat = lines.reshape(-1, 64).numpy()
    codes = np.zeros((n, k), dtype=np.uint8)
    for row in range(n):
        panel, strip, output = row // 64, row % 64 // 16, row % 16
        for column in range(k):
            g, inside = divmod(column, group)
            chunk, rest = divmod(inside, columns)
            first = (((panel * (k // group) + g) * chunks + chunk) * 4 + strip) * per_chunk
            codes[row, column] = field(flat[first : first + per_chunk], bits, rest // 4, 4 * output + rest % 4)
    return codes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_is_where_the_description_says(bits: int, shape: tuple[int, int]) -> None:
    for size in (-1, 1, 8, 20, 32):
        if size != -1 and shape[1] % size:
            continue
        q = random_weight(QuantSpec(bits, size), shape)
        assert np.array_equal(read_codes(packed_weight(q)["lines"], q.spec, *shape), q.codes.numpy()), size


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_shapes_announced_are_those_packed(bits: int, symmetric: bool, shape: tuple[int, int]) -> None:
    for size in (-1, 8, 32):
        if size != -1 and shape[1] % size:
            continue
        spec = QuantSpec(bits, size, symmetric)
        packed = packed_weight(random_weight(spec, shape))
        lines, scales = packed_shapes(spec, *shape)
        assert (packed["lines"].shape, packed["scales"].shape) == (lines, scales)
        assert ("zeros" in packed) is not symmetric
        assert all(tensor.is_contiguous() for tensor in packed.values())
        assert packed["sizes"].tolist() == list(shape)


def test_scales_and_zeros_go_by_panel_then_group_and_padding_is_zero() -> None:
    q = random_weight(QuantSpec(3, 8, symmetric=False), (70, 24), torch.bfloat16)
    packed = packed_weight(q)
    for name, values in (("scales", q.scales), ("zeros", q.zeros)):
        assert packed[name].dtype == values.dtype
        for row in range(128):
            stored = packed[name][row // 64, :, row % 64]
            assert torch.equal(stored, values[row] if row < 70 else torch.zeros_like(stored))


@pytest.mark.parametrize(("bits", "size"), [(2, 32), (3, 32), (4, 32), (8, 32), (4, 20), (3, 20)])
def test_memory_is_what_the_stored_width_needs(bits: int, size: int) -> None:
    columns = -(-size // (32 if bits == 3 else 16)) * (32 if bits == 3 else 16)
    packed = packed_weight(random_weight(QuantSpec(bits, size), (64, 5 * size)))
    assert packed["lines"].numel() == 64 * 5 * columns * bits // 8


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_padding_holds_code_zero(bits: int) -> None:
    spec = QuantSpec(bits, 20)
    full = QTensor(
        torch.full((5, 40), spec.qmax, dtype=torch.uint8), torch.ones(5, 2), torch.zeros(5, 2, dtype=torch.uint8), spec
    )
    ones = np.unpackbits(packed_weight(full)["lines"].numpy()).sum()
    assert ones == 5 * 40 * bits
    assert stored_bits(bits) >= bits


def test_codes_beyond_the_grid_are_refused() -> None:
    spec = QuantSpec(4)
    codes = torch.full((8, 64), 15, dtype=torch.uint8)
    q = QTensor(codes, torch.ones(8, 1), torch.full((8, 1), 8, dtype=torch.uint8), spec)
    packed_weight(q)
    codes[3, 5] = 16
    with pytest.raises(ValueError, match=r"codes reach 16.*ends at 15"):
        packed_weight(q)
