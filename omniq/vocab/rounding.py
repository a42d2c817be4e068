"""The embedding table and the output head as integers: rounded to nearest, symmetric, in groups along a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.errors import UsageError
from omniq.grid import encode, minmax_grid
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

GROUPS = (64, 32, 128)
"""Tried in this order where no group size is given."""
ROWS = 4096
"""Rows worked on at a time: a whole table in float32 could be larger than the model."""


@dataclass(frozen=True, eq=False)
class Tables:
    """The quantised matrices of a vocabulary, each (V, D); None for one that stays in floating point.

    Where the output head is the embedding (tied), both are the same object.
    """

    embedding: QTensor | None
    head: QTensor | None


def table_spec(columns: int, bits: int, group_size: int | None = None, scheme: QuantSpec | None = None) -> LinearSpec:
    """The grid of a table with rows of `columns`.

    Groups: of `group_size` where given; else those of `scheme`, the linears' grid, where they divide a row; else the
    first of 64, 32 and 128 that does; else a row.
    """
    if group_size is not None:
        spec = QuantSpec(bits, group_size)
        try:
            spec.width(columns)
        except UsageError as error:
            raise UsageError(f"embedding table: {error}") from None
        return LinearSpec(spec)
    asked = () if scheme is None else (scheme.group_size,)
    fits = (group for group in (*asked, *GROUPS) if group == -1 or columns % group == 0)
    return LinearSpec(QuantSpec(bits, next(fits, -1)))


def quantized_table(weight: Tensor, spec: LinearSpec) -> QTensor:
    """weight (V, D) -> its nearest codes, with scales in the weight's dtype."""
    grid = (weight.shape[0], spec.weight.groups(weight.shape[1]))
    # Memory of the results is taken first: parts kept between temporaries would scatter over twice as much.
    codes, zeros = (torch.empty(shape, dtype=torch.uint8, device=weight.device) for shape in (weight.shape, grid))
    scales = weight.new_empty(grid)
    for first in range(0, len(weight), ROWS):
        rows, part = weight[first : first + ROWS].detach().float(), slice(first, first + ROWS)
        q = encode(rows, *minmax_grid(rows, spec.weight, weight.dtype), spec.weight, weight.dtype)
        codes[part], scales[part], zeros[part] = q.codes, q.scales, q.zeros
    return QTensor(codes, scales, zeros, spec.weight)


def dense_table(q: QTensor, dtype: torch.dtype) -> Tensor:
    """The values (V, D) of a quantised table in `dtype`, made a few rows at a time."""
    dense = torch.empty(q.shape, dtype=dtype, device=q.codes.device)
    for first in range(0, len(dense), ROWS):
        part = slice(first, first + ROWS)
        dense[part] = q.rows(part).dequantize(dtype)
    return dense
