"""Metadata: what a GGUF file says of the model beside its weights and its vocabulary, as plain values by key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omniq.gguf.architectures import CAPS, FULL, Architecture, expert_count, head_size

Value = bool | int | float | str | list
Metadata = dict[str, Value]
QUANTISATION_VERSION = 2
"""Of the block layouts in blocks.py."""


def general(name: str, file_type: int, version: str, scheme: str) -> Metadata:
    """Keys that every file has. file_type: llama.cpp's number for what most tensors are; version: of omniq."""
    return {
        "general.type": "model",
        "general.name": name,
        "general.quantized_by": f"omniq {version}",
        "general.description": f"{scheme}, the integers of omniq's checkpoint",
        "general.file_type": file_type,
        "general.quantization_version": QUANTISATION_VERSION,
    }


def sizes(values: Mapping[str, Any], known: Architecture) -> Metadata:
    """Keys of the architecture. values: the config's entries."""
    head = head_size(values)
    found: Metadata = {
        "context_length": context_length(values, known),
        "embedding_length": values["hidden_size"],
        "block_count": values["num_hidden_layers"],
        "feed_forward_length": values["intermediate_size"],
        "attention.head_count": values["num_attention_heads"],
        "attention.head_count_kv": values.get("num_key_value_heads") or values["num_attention_heads"],
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(values["rms_norm_eps"]),
        "rope.dimension_count": head,
        "vocab_size": values["vocab_size"],
    }
    rope = rotary(values, known)
    found["rope.freq_base"] = float(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if known.windows:
        found["attention.sliding_window"] = values["sliding_window"]
    if known.capped:
        found |= {key: float(values[key]) for key in CAPS}
    if known.experts:
        found |= _experts(values)
    return {f"{known.name}.{key}": value for key, value in found.items()}


def _experts(values: Mapping[str, Any]) -> Metadata:
    """Keys of a mixture of experts. Where the config names no width of an expert, it is the block's own."""
    found = {"expert_count": expert_count(values), "expert_used_count": values["num_experts_per_tok"]}
    widths = {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }
    return found | {key: values[name] for key, name in widths.items() if name in values}


def rotary(values: Mapping[str, Any], known: Architecture) -> Mapping[str, Any]:
    """The entry of rope_parameters for layers of full attention."""
    ropes = values["rope_parameters"]
    return ropes[FULL] if known.local_base else ropes


def window(values: Mapping[str, Any], known: Architecture) -> int | None:
    """Tokens that layers look back over where llama.cpp, in this architecture, knows no such window; else None."""
    span = values.get("sliding_window")
    slides = not known.windows and span and values.get("use_sliding_window", True)
    return span if slides and span < values["max_position_embeddings"] else None


def context_length(values: Mapping[str, Any], known: Architecture) -> int:
    """Tokens up to which llama.cpp computes what the model does."""
    return window(values, known) or values["max_position_embeddings"]


def rope_factors(values: Mapping[str, Any], known: Architecture) -> Tensor | None:
    """What llama.cpp divides the rotary frequencies by, (R/2,) float32, for a rope of type llama3; else None.

    Waves shorter than the old context / high_freq_factor stay; those longer than the old context / low_freq_factor are
    stretched by `factor`; between the two the frequency is interpolated.
    """
    rope = rotary(values, known)
    if rope.get("rope_type") != "llama3":
        return None
    size = head_size(values)
    frequency = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high, factor = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - kept) / factor + kept)).float()
