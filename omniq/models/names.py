"""Names of parameters: what a model calls them in memory, and what its checkpoint may call them on disk."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

# Mixture-of-experts checkpoints older than transformers 5 name the same tensors otherwise.
FEED_FORWARD = ("mlp", "block_sparse_moe", "feed_forward")
GPT_NEOX_HEAD = "embed_out"
EXPERT = re.compile(r"(\.experts\.\d+\.)(gate_proj|up_proj|down_proj)\.")
EXPERT_LETTERS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def spellings(name: str, prefix: str) -> Iterator[str]:
    """The names a parameter may be stored under, the likeliest first. prefix: the backbone's attribute ('model')."""
    if name.startswith("lm_head."):
        yield from (name, name.replace("lm_head", GPT_NEOX_HEAD, 1))
        return
    for spelled in _feed_forward(name):
        yield spelled
        yield spelled.removeprefix(prefix + ".")
        yield f"{prefix}.{spelled}"


def _feed_forward(name: str) -> Iterator[str]:
    """`name` itself, then with the older names of the feed-forward part and of the members of an expert."""
    lettered = EXPERT.sub(lambda m: f"{m[1]}{EXPERT_LETTERS[m[2]]}.", name)
    for spelled in dict.fromkeys((name, lettered)):
        yield from (spelled.replace(".mlp.", f".{part}.") for part in FEED_FORWARD)


def stored_names(params: Iterable[str], stored: Collection[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Parameter names -> (name in the checkpoint by parameter name, parameters that the checkpoint lacks)."""
    found = {name: next((s for s in spellings(name, prefix) if s in stored), None) for name in params}
    return {name: s for name, s in found.items() if s is not None}, [name for name, s in found.items() if s is None]
