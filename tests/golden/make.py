"""Makes the golden files of this folder with the compressed-tensors library alone: python tests/golden/make.py

Each holds one weight as that library packs it, the signed integers it was made from, and the weight it expands to. The
metadata names the library's version and the scheme.
"""

from __future__ import annotations

import itertools
from importlib.metadata import version
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
ROWS, COLUMNS, GROUP = 13, 96, 32
CHANNEL_COLUMNS = 45
"""Not a multiple of anything, so that the last word of a row is partly filled."""


def golden(bits: int, strategy: str, symmetric: bool) -> dict[str, Tensor]:
    """One weight (N, K) packed by the library, beside its signed integers and its expanded value."""
    generator = torch.Generator().manual_seed(bits)
    columns = COLUMNS if strategy == "group" else CHANNEL_COLUMNS
    groups = COLUMNS // GROUP if strategy == "group" else 1
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    integers = torch.randint(low, high + 1, (ROWS, columns), generator=generator, dtype=torch.int8)
    zeros = torch.randint(low, high + 1, (ROWS, groups), generator=generator, dtype=torch.int8) * (not symmetric)
    scales = (0.01 + torch.rand(ROWS, groups, generator=generator)).bfloat16().float()
    steps = integers.float().view(ROWS, groups, -1) - zeros.float().unsqueeze(-1)
    weight = (steps * scales.unsqueeze(-1)).view(ROWS, columns)
    size = GROUP if strategy == "group" else None
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, group_size=size)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {"weight": weight, "weight_scale": scales, "weight_zero_point": zeros}
    packed = PackedQuantizationCompressor.compress(state, scheme)
    expanded = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    return {**packed, "integers": integers, "integer_zeros": zeros, "expanded": expanded}


def main() -> None:
    for bits, strategy, symmetric in itertools.product((2, 3, 4, 6, 8), ("group", "channel"), (True, False)):
        scheme = f"W{bits}A16{f'g{GROUP}' if strategy == 'group' else ''}{'' if symmetric else '-asym'}"
        tensors = {name: tensor.contiguous() for name, tensor in golden(bits, strategy, symmetric).items()}
        metadata = {"compressed_tensors": version("compressed-tensors"), "scheme": scheme}
        save_file(tensors, FOLDER / f"compressed_tensors_{scheme}.safetensors", metadata)


if __name__ == "__main__":
    main()
