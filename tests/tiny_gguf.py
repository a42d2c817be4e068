"""A tiny random Llama as a GGUF file, written with the gguf package from the format's description."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import torch
from tiny import tiny_model, tiny_tokenizer
from torch import nn

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def save_tiny_gguf(file: Path, seed: int = 0) -> nn.Module:
    """Writes tiny_model('llama') with its values rounded to bfloat16, and returns that model, in float32."""
    config, model = tiny_model("llama", seed)
    for param in model.parameters():
        param.data = param.data.bfloat16().float()
    writer = gguf.GGUFWriter(str(file), "llama")
    _describe(writer, config)
    _vocabulary(writer)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _gguf_rows(name, tensor, config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _describe(writer: gguf.GGUFWriter, config) -> None:
    """The architecture's sizes."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _vocabulary(writer: gguf.GGUFWriter) -> None:
    """The tiny tokenizer's tokens and merges."""
    tokenizer = tiny_tokenizer()
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in ("<s>", "</s>") else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _gguf_name(name: str) -> str:
    """'model.layers.0.mlp.up_proj.weight' -> 'blk.0.ffn_up.weight'."""
    module, leaf = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{leaf}"
    _, _, block, inner = module.split(".", 3)
    return f"blk.{block}.{NAMES[inner]}.{leaf}"


def _gguf_rows(name: str, tensor: torch.Tensor, config) -> torch.Tensor:
    """GGUF's Llama rotates neighbouring rows: the two halves of each head of q and k are interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
