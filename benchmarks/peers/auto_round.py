"""AutoRound: rounding and clipping learned by signed gradients, block by block."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM

from peers.task import Reload, Task, Tokens

NAMES = ("auto-round",)
IMPORTED = "auto_round"
REQUIRES = ("auto-round==0.16.1", "transformers==5.23.0", "accelerate==1.15.0", "compressed-tensors==0.20.0")
ENVIRONMENT: dict[str, str] = {}


def refuse(spec: Any) -> str | None:
    """It does every integer grid."""
    return None


def quantise(name: str, task: Task, tokens: Tokens) -> Reload:
    """Its own defaults (200 steps, learned rounding and ranges) but for task.options; saved in its own format."""
    from auto_round import AutoRound

    ids = tokens()
    tuner = AutoRound(
        str(task.model),
        bits=task.bits,
        group_size=task.group_size,
        sym=task.symmetric,
        nsamples=len(ids),
        seqlen=ids.shape[1],
        dataset=list(ids.split(1)),
        device_map="cpu",
        **task.options,
    )
    _, folder = tuner.quantize_and_save(str(task.saved), format="auto_round")
    return lambda: AutoModelForCausalLM.from_pretrained(folder, device_map="cpu")
