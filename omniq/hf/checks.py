"""What a model folder must be before any of it is loaded, and transformers' complaints as sentences for the user."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from omniq.errors import ModelError

CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel")
# What transformers raises for a config or a file whose content makes no sense.
NONSENSE = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, ArithmeticError, ImportError,
    AssertionError, StrictDataclassError, struct.error,
)  # fmt: skip


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut at 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def check_remote_code(values: Mapping[str, Any], folder: Path, trust: bool) -> None:
    """Raises ModelError when the model's own Python code would have to run and the user has not allowed it."""
    kind = values.get("model_type")
    if values.get("auto_map") and not trust and not (isinstance(kind, str) and kind in CONFIG_MAPPING):
        raise ModelError(
            f"{folder} only loads with the Python code that comes with it; "
            "read that code, then allow it with --trust-remote-code (in Python trust_remote_code=True)"
        )


def check_causal(values: Mapping[str, Any], folder: Path) -> None:
    """Raises ModelError when the config names a model that is not a decoder-only language model."""
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list):
        raise ModelError(f"architectures in {folder / 'config.json'} is {architectures!r}; expected a list of names")
    if values.get("is_encoder_decoder"):
        raise ModelError(
            f"{folder} is an encoder-decoder ({values.get('model_type')}); "
            "omniq quantises decoder-only causal language models"
        )
    if architectures and not any(str(name).endswith(CAUSAL_HEADS) for name in architectures):
        listed = ", ".join(map(str, architectures))
        raise ModelError(f"{folder} holds {listed}, which is not a causal language model (a ...ForCausalLM)")


def check_quantization(values: Mapping[str, Any], folder: Path, quantized: bool) -> None:
    """Raises ModelError when the weights are integers already, unless `quantized` admits that."""
    entry = values.get("quantization_config")
    if entry and not isinstance(entry, Mapping):
        raise ModelError(f"quantization_config in {folder / 'config.json'} is {entry!r}; expected a JSON object")
    if entry and not quantized:
        method = entry.get("quant_method", "method not named")
        raise ModelError(f"{folder} is already quantised ({method}); give the original floating-point model")


def causal_config(folder: Path, trust_remote_code: bool) -> Any:
    """The folder's config as transformers reads it; ModelError when it is not one of a causal language model."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except NONSENSE as error:
        raise ModelError(f"transformers cannot read {folder / 'config.json'}: {first_line(error)}") from None
    remote = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not remote:
        raise ModelError(
            f"{folder} is a {config.model_type} model; transformers knows no causal language model of that type"
        )
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.to_dict().get("is_decoder"):
        raise ModelError(
            f"{folder} is a {config.model_type} model, an encoder; omniq quantises decoder-only causal language models"
        )
    return config
