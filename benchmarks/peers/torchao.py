"""torchao: integers by rounding to nearest, its default for weights alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from peers.task import Reload, Task, Tokens

NAMES = ("torchao",)
IMPORTED = "torchao.quantization"
REQUIRES = ("torchao==0.18.0", "transformers==5.23.0", "accelerate==1.15.0")
ENVIRONMENT: dict[str, str] = {}


def refuse(spec: Any) -> str | None:
    """It does every integer grid."""
    return None


def quantise(name: str, task: Task, tokens: Tokens) -> Reload:
    """In memory: its tensors carry code that transformers cannot save at every width."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_primitives import MappingType

    model = AutoModelForCausalLM.from_pretrained(task.model, dtype="auto")
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{task.bits}"),
        granularity=PerAxis(0) if task.group_size == -1 else PerGroup(task.group_size),
        mapping_type=MappingType.SYMMETRIC if task.symmetric else MappingType.ASYMMETRIC,
        **task.options,
    )
    quantize_(model, config, filter_fn=chosen)
    return partial(in_float32, model)


def chosen(layer: nn.Module, path: str) -> bool:
    """Every linear but the head."""
    return isinstance(layer, nn.Linear) and "lm_head" not in path


def in_float32(model: nn.Module) -> nn.Module:
    """The same codes and scales, but multiplied out in float32."""
    for path, layer in model.named_modules():
        if chosen(layer, path):
            layer.weight = nn.Parameter(layer.weight.to(dtype=torch.float32), requires_grad=False)
    return model
