"""llm-compressor: GPTQ, and AWQ's scaling before rounding; saved as compressed-tensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from peers.task import Reload, Task, Tokens

NAMES = ("llmcompressor", "compressed-tensors")
IMPORTED = "llmcompressor"
REQUIRES = ("llmcompressor==0.14.0.1", "transformers==5.17.0")
ENVIRONMENT: dict[str, str] = {}
HEAD = ["lm_head"]


def refuse(spec: Any) -> str | None:
    """It does every integer grid."""
    return None


def quantise(name: str, task: Task, tokens: Tokens) -> Reload:
    """The modifiers' own defaults on the dtype that the model is stored in."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache

    # AWQ pins memory for copies to a GPU, which fails where there is none and changes no number.
    IntermediatesCache.pin_memory = lambda *_args, **_settings: None
    ids = tokens()
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype="auto")
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids]
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=recipe(name, task),
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
    )
    model.save_pretrained(task.saved, save_compressed=True)
    return partial(unpacked, task.saved)


def unpacked(folder: Path) -> nn.Module:
    """The saved model; its layers unpack themselves at the first forward pass, in the dtype they are loaded in."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    model(torch.zeros(1, 1, dtype=torch.int64))
    return model


def recipe(name: str, task: Task) -> list[Any]:
    """The modifiers of a method."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    groups = {"group_0": {"targets": ["Linear"], "weights": weights(task)}}
    if name == "llmcompressor-gptq":
        return [GPTQModifier(config_groups=groups, ignore=HEAD, **task.options)]
    return [AWQModifier(**task.options), QuantizationModifier(config_groups=groups, ignore=HEAD)]


def weights(task: Task) -> dict[str, Any]:
    """The grid as compressed-tensors says it."""
    grid = {"num_bits": task.bits, "type": "int", "symmetric": task.symmetric}
    if task.group_size == -1:
        return grid | {"strategy": "channel"}
    return grid | {"strategy": "group", "group_size": task.group_size}
