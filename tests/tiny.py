"""Tiny random models of every architecture with a table, and complete folders of them, made without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB = 320
TEXT = (
    "the quick brown fox jumps over the lazy dog while seven wizards quietly box up forty jars of liquid fuel. "
    "a model of language reads a text, token after token, and says what comes next; it is rarely sure. "
    "numbers such as 3, 14, 159 and 2653 stand in the text as well, and so do names: Ada, Grace, Alan."
)

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GQA = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16}
MOE = {**GQA, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
GEMMA = {**GQA, "sliding_window": 8, "query_pre_attn_scalar": 16}

# model type -> settings of its config.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": GQA,
    "mistral": {**GQA, "sliding_window": 8},
    "qwen2": {**GQA, "use_sliding_window": False},
    "qwen3": GQA,
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "opt": {**SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": {**SIZES, "intermediate_size": 96, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "phi3": {**GQA, "pad_token_id": 0},
    "gpt_neox": {**SIZES, "intermediate_size": 96, "rotary_pct": 0.25},
    "falcon": {**SIZES, "ffn_hidden_size": 96, "num_kv_heads": 2, "new_decoder_architecture": True, "bias": True},
    "mixtral": {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 48, "use_sliding_window": False},
    "qwen3_moe": {**MOE, "norm_topk_prob": True},
}
# Other blocks that one of these model types can have, as (model type, settings).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-7b": ("falcon", {**SIZES, "ffn_hidden_size": 96, "multi_query": True}),
    "falcon-11b": ("falcon", {**ARCHITECTURES["falcon"], "num_ln_in_parallel_attn": 1}),
    "falcon-rw": (
        "falcon",
        {**SIZES, "ffn_hidden_size": 96, "multi_query": False, "alibi": True, "parallel_attn": False, "bias": True},
    ),
    "galactica": ("opt", {**ARCHITECTURES["opt"], "activation_function": "gelu"}),
    "gpt_neox-sequential": ("gpt_neox", {**ARCHITECTURES["gpt_neox"], "use_parallel_residual": False}),
    "llama-tied": ("llama", {**GQA, "tie_word_embeddings": True}),
    "qwen3_moe-dense-layer": ("qwen3_moe", {**ARCHITECTURES["qwen3_moe"], "mlp_only_layers": [0]}),
}
# No table: opened by structure.
UNKNOWN: dict[str, dict[str, Any]] = {"olmo2": GQA, "stablelm": GQA}


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    """(model type, config settings) of an architecture, a variant or an architecture without a table."""
    if name in VARIANTS:
        return VARIANTS[name]
    return name, {**ARCHITECTURES, **UNKNOWN}[name]


def tiny_model(name: str, seed: int = 0, **changes: Any) -> tuple[Any, nn.Module]:
    """(config, float32 model in eval mode) with two blocks, hidden size 64, 4 heads of 16 and lively activations.

    changes: config settings other than those.
    """
    kind, settings = settings_of(name)
    config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=1, **{"pad_token_id": 1, **settings, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for path, param in model.named_parameters():
            param.copy_(_lively(path, param))
    return config, model


def _lively(path: str, param: torch.Tensor) -> torch.Tensor:
    """Random values of the size that a trained model has: matrices keep the variance of what they multiply."""
    if param.dim() == 1:
        return param + 0.2 * torch.randn_like(param)
    gain = 0.3 if "embed" in path else 1.2 / param.shape[-1] ** 0.5
    return gain * torch.randn_like(param)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCAB tokens that encodes any text without loss."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    raw.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def save_text(path: Path) -> Path:
    """Writes a text to calibrate on, twelve numbered lines of TEXT, and returns its path."""
    path.write_text("\n".join(f"{i}: {TEXT}" for i in range(12)))
    return path


def save_tiny(name: str, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Path:
    """Writes tiny_model(name) with a tokenizer as a complete model folder, and returns the folder."""
    _, model = tiny_model(name, seed, **changes)
    model.to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tokens(batch: int = 2, length: int = 24, seed: int = 0) -> torch.Tensor:
    """Random token ids (B, T)."""
    return torch.randint(2, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
