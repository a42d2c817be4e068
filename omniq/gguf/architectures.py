"""Architectures that llama.cpp computes as transformers does: its name for each, and what sets it apart, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

SILU, GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
EVERY_LINEAR = (*ATTENTION, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
SLIDING, FULL = "sliding_attention", "full_attention"
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True)
class Architecture:
    """name: llama.cpp's. activations: config names of the one it computes.

    interleaved: its rotary pairs are neighbours, so that the rows of q and k are stored in another order. biased: the
    linears that may have a bias, by their names inside a block. windows: it has layers with a sliding window, each
    `period`-th layer without, and in them a rotary base of `local_base`, where it is not the same for all. capped: it
    bounds scores and logits. scaled_layers: number of layers from which it infers that scores are divided by the root
    of hidden size / heads, not of the head's. experts: it is a mixture; rescaled: the weights of the experts that a
    token chose are made to add up to one.
    """

    name: str
    activations: tuple[str, ...] = SILU
    interleaved: bool = False
    biased: tuple[str, ...] = ()
    windows: bool = False
    period: int = 0
    local_base: float = 0.0
    capped: bool = False
    scaled_layers: int = 0
    experts: bool = False
    rescaled: bool = False


LLAMA = Architecture("llama", interleaved=True, biased=EVERY_LINEAR)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture("qwen2", biased=ATTENTION),
    "qwen3": Architecture("qwen3"),
    "mixtral": replace(LLAMA, biased=(), experts=True, rescaled=True),
    "qwen2_moe": Architecture("qwen2moe", biased=ATTENTION, experts=True),
    "qwen3_moe": Architecture("qwen3moe", experts=True, rescaled=True),
    "gemma2": Architecture("gemma2", activations=GELU, windows=True, period=2, capped=True, scaled_layers=46),
    "gemma3_text": Architecture(
        "gemma3", activations=GELU, windows=True, period=6, local_base=10_000.0, scaled_layers=62
    ),
}
"""By model type of transformers. One entry is all that another architecture needs, if llama.cpp has it."""


def architecture_for(values: Mapping[str, Any]) -> Architecture | None:
    """The entry for a config, or None."""
    return ARCHITECTURES.get(str(values.get("model_type")))


def unsaid(values: Mapping[str, Any]) -> str | None:
    """Why llama.cpp would compute another model than this config describes, or None. values: of the whole config."""
    kind = values.get("model_type")
    known = architecture_for(values)
    if known is None:
        return f"omniq writes {', '.join(ARCHITECTURES)} as GGUF, not {kind} (see omniq/gguf/architectures.py)"
    activation = values.get("hidden_act") or values.get("hidden_activation")
    if activation not in known.activations:
        return f"its activation is {activation!r}; llama.cpp computes {known.activations[0]!r} in a {known.name} model"
    for key in ("use_bidirectional_attention", *(() if known.capped else CAPS)):
        if values.get(key):
            return f"llama.cpp does not compute {key} = {values[key]!r} in a {known.name} model"
    if known.experts and (reason := _unsaid_experts(values, known)):
        return reason
    if known.windows:
        return _unsaid_windows(values, known)
    return unsaid_rope(values.get("rope_parameters") or {})


def _unsaid_experts(values: Mapping[str, Any], known: Architecture) -> str | None:
    if bool(values.get("norm_topk_prob", True)) != known.rescaled:
        return f"norm_topk_prob is {values['norm_topk_prob']}; llama.cpp computes with {known.rescaled} in {known.name}"
    if values.get("mlp_only_layers") or values.get("decoder_sparse_step", 1) != 1:
        return f"some of its layers have no experts; in a {known.name} model of llama.cpp all have"
    return None


def _unsaid_windows(values: Mapping[str, Any], known: Architecture) -> str | None:
    layers = values["layer_types"]
    usual = [FULL if (index + 1) % known.period == 0 else SLIDING for index in range(len(layers))]
    if list(layers) != usual:
        return f"llama.cpp gives the last of {known.period} layers full attention, the others a window; not so here"
    scale = values.get("query_pre_attn_scalar")
    wanted = head_size(values)
    if len(layers) == known.scaled_layers:
        wanted = values["hidden_size"] // values["num_attention_heads"]
    if scale is not None and scale != wanted:
        return f"query_pre_attn_scalar is {scale}; llama.cpp computes with {wanted}"
    missing = [key for key in CAPS if known.capped and not values.get(key)]
    if missing:
        return f"{missing[0]} is {values.get(missing[0])!r}; llama.cpp bounds both in a {known.name} model"
    ropes = values["rope_parameters"]
    if not known.local_base:
        return unsaid_rope(ropes)
    local = ropes[SLIDING]
    if local["rope_theta"] != known.local_base or local.get("rope_type", "default") != "default":
        return f"llama.cpp computes layers with a window on a plain rotary base of {known.local_base:.0f}, not {local}"
    return unsaid_rope(ropes[FULL])


def unsaid_rope(rope: Mapping[str, Any]) -> str | None:
    """Why llama.cpp would rotate in another way, or None. rope: one entry of rope_parameters."""
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        return f"its rotary embedding is of type {kind!r}; omniq writes default, linear and llama3 as GGUF"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "its rotary embedding turns a part of each head; llama.cpp turns the whole head in this architecture"
    return None


def expert_count(values: Mapping[str, Any]) -> int:
    """Experts of a layer, by either name that configs have for it."""
    return values.get("num_local_experts") or values["num_experts"]


def head_size(values: Mapping[str, Any]) -> int:
    """Numbers in an attention head."""
    return values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
