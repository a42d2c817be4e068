"""Makes the golden files of GPTQ and AWQ with gptqmodel alone, on the CPU: python tests/golden/make_gptqmodel.py

Each holds one weight as gptqmodel packs it, the codes and zero points it was made from, and the weight (N, K) that
gptqmodel expands it to. The metadata names the library's version, the scheme and omniq's word for the format.
Asymmetric zero points run over the whole grid, 0 included, also in version 1 of GPTQ, which omniq reads so and never
writes.
"""

from __future__ import annotations

import itertools
from importlib.metadata import version
from pathlib import Path

import torch
from gptqmodel import BACKEND
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
ROWS, COLUMNS, GROUP = 64, 96, 32


def numbers(bits: int, group: int, symmetric: bool) -> dict[str, Tensor]:
    """Codes (N, K), zero points and scales (N, G): powers of two times few bits, so that every product is exact."""
    generator = torch.Generator().manual_seed(bits)
    groups, top = COLUMNS // group, 2**bits
    codes = torch.randint(0, top, (ROWS, COLUMNS), generator=generator)
    zeros = torch.randint(0, top, (ROWS, groups), generator=generator)
    zeros = torch.full_like(zeros, top // 2) if symmetric else zeros
    scales = torch.randint(1, 8, (ROWS, groups), generator=generator) / 256
    return {"codes": codes.to(torch.uint8), "zeros": zeros.to(torch.uint8), "scales": scales.half()}


def expanded(made: dict[str, Tensor]) -> Tensor:
    """The weight (N, K) float32 that the numbers stand for."""
    groups = made["scales"].shape[1]
    steps = made["codes"].float().view(ROWS, groups, -1) - made["zeros"].float().unsqueeze(-1)
    return (steps * made["scales"].float().unsqueeze(-1)).view(ROWS, COLUMNS)


def arguments(bits: int, group: int, symmetric: bool) -> dict[str, object]:
    """What both classes are made with."""
    sizes = {"in_features": COLUMNS, "out_features": ROWS, "bias": False, "register_buffers": True}
    return {"bits": bits, "group_size": group, "sym": symmetric, "desc_act": False, **sizes}


def linear(weight: Tensor) -> nn.Linear:
    """A layer that holds `weight` (N, K)."""
    layer = nn.Linear(COLUMNS, ROWS, bias=False)
    layer.weight.data = weight
    return layer


def gptq(bits: int, strategy: str, symmetric: bool, first: bool) -> dict[str, Tensor]:
    """A weight in GPTQ; first: in version 1."""
    group = GROUP if strategy == "group" else COLUMNS
    made = numbers(bits, group, symmetric)
    layer = TorchLinear(
        **arguments(bits, GROUP if strategy == "group" else -1, symmetric),
        pack_dtype=torch.int32, backend=BACKEND.GPTQ_TORCH, adapter=None,
    )  # fmt: skip
    order = torch.arange(COLUMNS, dtype=torch.int32) // group
    layer.pack_original(linear(expanded(made)), made["scales"].float(), made["zeros"].float(), order)
    layer.post_init()
    weight = layer.dequantize_weight().T.float()
    if first:
        convert_gptq_v2_to_v1_format_module(layer, QuantizeConfig(bits=bits))
    packed = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    return {**packed, "integers": made["codes"], "integer_zeros": made["zeros"], "expanded": weight}


def awq(strategy: str, symmetric: bool) -> dict[str, Tensor]:
    """A weight in AWQ."""
    group = GROUP if strategy == "group" else COLUMNS
    made = numbers(4, group, symmetric)
    layer = AwqTorchLinear(**arguments(4, GROUP if strategy == "group" else -1, symmetric))
    layer.pack(linear(expanded(made)), made["scales"], made["zeros"])
    weight = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, group).T.float()
    packed = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    return {**packed, "integers": made["codes"], "integer_zeros": made["zeros"], "expanded": weight}


def save(name: str, scheme: str, tensors: dict[str, Tensor]) -> None:
    """One golden file."""
    metadata = {"gptqmodel": version("gptqmodel"), "scheme": scheme, "format": name}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, FOLDER / f"{name}_{scheme}.safetensors", metadata
    )


def main() -> None:
    for strategy, symmetric in itertools.product(("group", "channel"), (True, False)):
        rest = f"A16{f'g{GROUP}' if strategy == 'group' else ''}{'' if symmetric else '-asym'}"
        for bits, first in itertools.product((2, 3, 4, 8), (True, False)):
            save("gptq" if first else "gptq_v2", f"W{bits}{rest}", gptq(bits, strategy, symmetric, first))
        save("awq", f"W4{rest}", awq(strategy, symmetric))


if __name__ == "__main__":
    main()
