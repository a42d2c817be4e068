"""A model that is in memory already: what it must be, and the model folder that it is written to once."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from omniq.errors import ModelError, OutputError, UsageError
from omniq.hf.checks import NONSENSE, check_causal, first_line
from omniq.hf.files import hushed

SHARD = "5GB"
PLAIN_NAME = re.compile(r"\w[\w.-]*")
INSTEAD = "give a hub id, a folder, a GGUF file or a causal language model of transformers"


def checked_model(model: object) -> PreTrainedModel:
    """The model itself; ModelError or UsageError says why a checkpoint cannot hold what it computes."""
    if _is_peft(model):
        raise ModelError("the model holds PEFT adapters; merge them first: model = model.merge_and_unload()")
    if not isinstance(model, PreTrainedModel):
        raise UsageError(f"the model is of type {type(model).__name__}; {INSTEAD}")
    name = type(model).__name__
    check_causal({**model.config.to_dict(), "architectures": [name]}, Path(name))
    if getattr(model.config, "quantization_config", None) or getattr(model, "hf_quantizer", None):
        raise ModelError(
            f"the {name} in memory is already quantised, or was read from a GGUF file; "
            "give the original floating-point model, or the GGUF file itself"
        )
    meta = next((path for path, param in model.named_parameters() if param.is_meta), None)
    if meta is not None:
        raise ModelError(
            f"the {name} in memory has no values for {meta}, which is on the meta device (empty or offloaded); "
            "load the whole model into memory, or give its folder"
        )
    hooked = next((path for path, module in model.named_modules() if _own_hooks(module)), None)
    if hooked is not None:
        raise ModelError(
            f"the {name} in memory has a forward hook on {hooked or 'the model itself'}, which a checkpoint cannot "
            "hold; remove the hook, or give the model's folder"
        )
    _check_tying(model)
    return model


def _is_peft(model: object) -> bool:
    """Whether a module of the model, or its wrapper, is of the package peft."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(type(module).__module__.split(".")[0] == "peft" for module in modules)


def _own_hooks(module: nn.Module) -> bool:
    """Whether a user has put a hook on a module's forward; those of transformers only listen."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any((getattr(hook, "__module__", None) or "").split(".")[0] != "transformers" for hook in hooks)


def _check_tying(model: PreTrainedModel) -> None:
    """Raises ModelError when the config says that embedding and head are one table, and in memory they are two."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(model.config, "tie_word_embeddings", False) and head is not None and head.weight is not table.weight:
        raise ModelError(
            f"the config of the {type(model).__name__} in memory ties the output head to the embedding table, but they "
            "are two tensors; call model.tie_weights(), or set model.config.tie_word_embeddings to False"
        )


def save_model(model: PreTrainedModel, tokenizer: Any, parent: Path) -> Path:
    """Writes a checked model, and its tokenizer unless that is None, as a model folder below `parent`.

    The folder is named after what the model was loaded from. The model stays as it is: what transformers notes down
    in the config while it saves goes into a copy.
    """
    folder = parent / _plain_name(model)
    written = copy.copy(model)
    written.config = copy.deepcopy(model.config)
    written.generation_config = copy.deepcopy(model.generation_config)
    try:
        with hushed():
            written.save_pretrained(folder, max_shard_size=SHARD)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the model in memory to {folder}: {first_line(error)}; check space and permissions there"
        ) from None
    except NONSENSE as error:
        raise ModelError(f"transformers cannot save the model in memory: {first_line(error)}") from None
    return folder


def checked_tokenizer(tokenizer: object) -> Any:
    """The tokenizer itself, None included; UsageError for anything that is not one of transformers."""
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(f"the tokenizer is of type {type(tokenizer).__name__}; give one of transformers")
    return tokenizer


def _plain_name(model: PreTrainedModel) -> str:
    """The last part of the hub id or folder that a model was loaded from, else the name of its class."""
    name = Path(model.config.name_or_path or "").name
    return name if PLAIN_NAME.fullmatch(name) else type(model).__name__


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True
