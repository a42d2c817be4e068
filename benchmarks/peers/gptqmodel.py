"""GPTQModel: GPTQ and GPTAQ, saved as GPTQ words."""

from __future__ import annotations

from typing import Any

from peers.task import Reload, Task, Tokens

NAMES = ("gptqmodel",)
IMPORTED = "gptqmodel"
REQUIRES = ("gptqmodel==7.6.0", "transformers==5.23.0", "accelerate==1.15.0")
ENVIRONMENT = {"GPTQMODEL_CPU_WORKERS": "2"}
"""On two cores it asks for more workers than it has and ends, unless told."""
ALPHA = 0.25
"""Of GPTAQ: what its authors' code uses."""


def refuse(spec: Any) -> str | None:
    """It does every integer grid."""
    return None


def quantise(name: str, task: Task, tokens: Tokens) -> Reload:
    """Its own defaults; reloaded from the words it saved."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization.config import GPTAQConfig

    ids = tokens()
    method = {"gptaq": GPTAQConfig(alpha=ALPHA)} if name == "gptqmodel-gptaq" else {}
    config = QuantizeConfig(
        bits=task.bits,
        group_size=task.group_size,
        sym=task.symmetric,
        device="cpu",
        offload_to_disk=False,
        **method,
        **task.options,
    )
    model = GPTQModel.load(str(task.model), config)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids]
    model.quantize(rows, batch_size=1)
    model.save(str(task.saved))
    return lambda: GPTQModel.load(str(task.saved), device="cpu", backend=BACKEND.TORCH).model
