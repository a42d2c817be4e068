"""HQQ: data-free zero points by half-quadratic minimisation; scales and zero points are floats."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from peers.task import Reload, Task, Tokens

NAMES = ("hqq",)
IMPORTED = "hqq.models.hf.base"
REQUIRES = ("hqq==0.2.8.post1", "transformers==5.23.0", "accelerate==1.15.0")
ENVIRONMENT: dict[str, str] = {}


def refuse(spec: Any) -> str | None:
    """A sentence where it has no such grid."""
    return "HQQ has zero points of its own in every group" if spec.symmetric else None


def quantise(name: str, task: Task, tokens: Tokens) -> Reload:
    """Its own defaults, but groups along the row as every kernel wants them; saved in its own format."""
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel

    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float16)
    group = None if task.group_size == -1 else task.group_size
    config = BaseQuantizeConfig(nbits=task.bits, group_size=group, axis=1, **task.options)
    AutoHQQHFModel.quantize_model(model, quant_config=config, compute_dtype=torch.float16, device="cpu")
    AutoHQQHFModel.save_quantized(model, str(task.saved))
    return lambda: AutoHQQHFModel.from_quantized(str(task.saved), compute_dtype=torch.float32, device="cpu")
