"""OmniqLM: a model for lm-evaluation-harness, packed checkpoints on omniq's kernels and dense ones as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import nn

from omniq import hf, runtime
from omniq.errors import UsageError
from omniq.source import config_values
from omniq.spec import FLOAT_BITS

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PASSED_ON = (
    "batch_size",
    "max_batch_size",
    "max_length",
    "truncation",
    "logits_cache",
    "add_bos_token",
    "prefix_token_id",
    "softmax_dtype",
    "think_end_token",
    "enable_thinking",
    "chat_template_args",
)
"""What lm-eval's own class does for a model that is in memory already; it ignores the rest without a word."""


@register_model("omniq")
class OmniqLM(HFLM):
    """lm-eval's class for Hugging Face models around one that omniq has loaded.

    As a name in lm-eval: --model omniq --model_args pretrained=FOLDER,dtype=float32.
    """

    def __init__(
        self,
        pretrained: str | Path | nn.Module,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str = "auto",
        activations: str = runtime.ACTIVATIONS[0],
        embed_bits: int = FLOAT_BITS,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> None:
        """pretrained: a folder, a hub id, or a model in memory, for which the settings of loading say nothing.

        tokenizer: of a model in memory. device: None takes a GPU where there is one. dtype: auto takes the
        checkpoint's. activations, embed_bits: as runtime.load. settings: PASSED_ON.
        """
        unknown = sorted(set(settings) - set(PASSED_ON))
        if unknown:
            raise UsageError(
                f"the lm-eval model omniq has no argument {unknown[0]!r}; it has pretrained, tokenizer, device, dtype, "
                f"activations, embed_bits, trust_remote_code, {', '.join(PASSED_ON)}"
            )
        if isinstance(pretrained, nn.Module):
            model = pretrained
        else:
            folder = hf.resolve(str(pretrained), trust_remote_code=trust_remote_code, work=hf.cache_folder())
            place, number = device_of(device), dtype_of(dtype)
            model = loaded(folder, place, number, activations, int(embed_bits), trust_remote_code)
            tokenizer = hf.load_tokenizer(folder, trust_remote_code=trust_remote_code)
        super().__init__(pretrained=model, tokenizer=tokenizer, **settings)


def loaded(
    folder: Path, device: torch.device, dtype: torch.dtype | None, activations: str, embed_bits: int, trust: bool
) -> nn.Module:
    """The model of a folder: on omniq's kernels where it is quantised, else by transformers."""
    if config_values(folder).get("quantization_config"):
        settings = {"activations": activations, "embed_bits": embed_bits, "trust_remote_code": trust}
        return runtime.load(folder, device, dtype, **settings)
    if (activations, embed_bits) != (runtime.ACTIVATIONS[0], FLOAT_BITS):
        raise UsageError(f"{folder} is not quantised, so activations and embed_bits do nothing for it; leave them out")
    return hf.load_dense(folder, dtype or "auto", trust_remote_code=trust).to(device)


def device_of(name: str | None) -> torch.device:
    """None, 'cpu', 'cuda' or 'cuda:N' -> a device; None takes a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"the device is {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"the device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def dtype_of(name: str) -> torch.dtype | None:
    """'auto' -> None, which means the checkpoint's own."""
    if name not in DTYPES:
        raise UsageError(f"dtype is {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]
