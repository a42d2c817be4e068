"""Small models from nothing: a Llama of under a million weights and a tokenizer of whole words."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
PROBE = "▁abcdef"
"""The word by which transformers finds out how a tokenizer joins tokens; generation with stop strings needs it."""
LONGEST = 1024
"""Positions of the model."""


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token for each word of `texts`, with the space before it, and for each sign; what it encodes decodes again.

    A text begins with <s>. Words that do not occur in the texts are <unk>.
    """
    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")]
    )
    words = {word for text in texts for word, _ in cut.pre_tokenize_str(text)}
    signs = set(string.ascii_letters + string.digits + string.punctuation + "▁\n")
    ordered = [*SPECIAL, *sorted(words | signs | {PROBE})]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(ordered)}, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = cut, decoders.Metaspace(prepend_scheme="always")
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def fresh_model(tokenizer: Any, seed: int, *, width: int = 96, depth: int = 3, heads: int = 4) -> nn.Module:
    """An untrained float32 Llama for a tokenizer: `depth` blocks, hidden size `width`; the same for the same seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
