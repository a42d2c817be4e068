"""A causal LM without its weights: parameters on the meta device, buffers real, experts apart, attention ours."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from omniq.attention import capped_attention, quantized_heads
from omniq.errors import ModelError
from omniq.experts import unfuse
from omniq.hf.bounds import check_buffers
from omniq.hf.checks import NONSENSE, first_line

ATTENTION = "omniq"
"""The name under which transformers finds omniq's attention function."""


def build_skeleton(config: Any, *, trust_remote_code: bool = False) -> tuple[nn.Module, bool]:
    """Config -> (causal LM in eval mode, parameters on meta in float32; whether its attention calls omniq's function).

    Changes the config: no cache, and the name of the attention function.
    """
    config.use_cache = False
    dtype = config.dtype
    try:
        # Built in float32 so that buffers (rotary frequencies, embedding scales) keep full precision.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except NONSENSE as error:
        raise ModelError(
            f"transformers cannot build a {config.model_type} model from this config.json: {first_line(error)}"
        ) from None
    hook = _calls_interface(model)
    if hook:
        model.set_attn_implementation(ATTENTION)
    check_buffers(model)
    unfuse(model)
    _fill_buffers(model)
    model.config.dtype = dtype
    return model.eval().requires_grad_(False), hook


def _calls_interface(model: nn.Module) -> bool:
    """Whether attention looks its function up by name and is of a kind that _attention computes.

    Those are scaled dot product attention and capped scores; attention with sinks, say, is neither.
    """
    looked_up = "ALL_ATTENTION_FUNCTIONS" in vars(sys.modules[type(model).__module__])
    return looked_up and (type(model)._supports_sdpa or "attn_logit_softcapping" in model.config.to_dict())


@torch.no_grad()
def _fill_buffers(model: nn.Module) -> None:
    """Gives every buffer its value, on the CPU, as from_pretrained does: by _init_weights of the innermost model.

    named_modules() visits parents first, so that is the last PreTrainedModel met.
    """
    for name, owner in model.named_modules():
        if isinstance(owner, PreTrainedModel):
            initializer = owner
        for leaf, buffer in owner.named_buffers(recurse=False):
            start = float("nan") if buffer.is_floating_point() else 0
            owner._buffers[leaf] = torch.full_like(buffer, start, device="cpu")
        if not owner._buffers:
            continue
        initializer._init_weights(owner)
        unset = [leaf for leaf in owner._non_persistent_buffers_set if owner._buffers[leaf].isnan().any()]
        if unset:
            raise ModelError(
                f"the code of {type(model).__name__} never sets its buffer {name}.{unset[0]} after loading; "
                "it was written for an older transformers and cannot be loaded with this one"
            )


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """q (B, H, T, D), k and v (B, H/n, S, D) -> (B, T, H, D), with q, k and v on the grid that set_attention gave."""
    query, key, value = quantized_heads(module, query, key, value)
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return capped_attention(query, key, value, attention_mask, scale, softcap), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
