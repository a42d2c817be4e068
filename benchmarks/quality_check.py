"""Whether a peer did what it was asked: read off the dense model it came to."""

from __future__ import annotations

from quality_grid import grid_of

from omniq.checkpoint import Reader
from omniq.eval.size import bits_per_weight
from omniq.hf import OpenModel
from omniq.spec import QuantSpec

ROUNDING = 2.0**-8
"""Untouched tensors may come back rounded to 16 bits."""


def checked(original: OpenModel, dense: Reader, spec: QuantSpec) -> dict[str, float]:
    """Bits per weight with scales and zeros, and how many layers; ends the row where the peer did something else.

    Every linear of the blocks must lie on a grid of `spec`, and no other matrix may have changed.
    """
    sizes, stored = [], {name: original.stored_name(f"{name}.weight") for name in original.linears}
    for name, tensor in stored.items():
        weight = dense.read(tensor).float()
        width = spec.width(weight.shape[1])
        grid = grid_of(weight, spec.bits, width)
        if grid is None:
            raise SystemExit(f"{name} is not on a grid of {2**spec.bits} even steps in groups of {width}")
        if spec.symmetric and grid.zero_bits:
            raise SystemExit(f"{name} has zero points of its own, but a symmetric grid was asked for")
        sizes.append((spec.bits + (grid.zero_bits + grid.scale_bits) / width, weight.numel()))
    for name in set(dense.names()) - set(stored.values()):
        before, after = original.reader.read(name).float(), dense.read(name).float()
        if before.dim() == 2 and ((before - after).abs() > ROUNDING * before.abs()).any():
            raise SystemExit(f"{name} was changed, but only the linears of the blocks were to be quantised")
    return {"bits_per_weight": bits_per_weight(sizes), "layers": len(sizes)}
