"""The dtype in which a run multiplies matrices."""

from __future__ import annotations

import torch

from omniq.recipe import Recipe


def fast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies it fast and the grid is coarser (below 8 bits); else None, float32."""
    finest = max(recipe.avg_bits or recipe.scheme.weight.bits, recipe.scheme.input.bits if recipe.scheme.input else 0)
    fast = (
        torch.cuda.is_bf16_supported() if device.type == "cuda" else bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    return torch.bfloat16 if fast and finest < 8 else None
