"""From what a user names to a model folder, and from a folder to a dense model or a tokenizer."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from omniq.checkpoint import Reader
from omniq.errors import ModelError, OutputError
from omniq.gguf_header import check_gguf
from omniq.hf.bounds import check_counts, check_weights
from omniq.hf.checks import NONSENSE, causal_config, check_remote_code, first_line
from omniq.source import config_values, file_digest, located

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
VERSION = transformers.__version__
TOKENIZER_FILES = (*VOCABULARIES, "*.tiktoken")


def quiet() -> None:
    """No progress bars and no notes from transformers and the hub library: the caller reports progress itself."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()


@contextmanager
def hushed() -> Iterator[None]:
    """As after quiet(), for a while."""
    verbosity, hub, bars = logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()
    quiet()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub)
        if bars:
            logging.enable_progress_bar()


def resolve(model: str, *, revision: str | None = None, trust_remote_code: bool = False, work: Path) -> Path:
    """The model folder that a hub id, a folder or a GGUF file names; a GGUF file is converted once, below `work`."""
    path = located(model, revision, trust_remote_code)
    if path.is_dir():
        check_remote_code(config_values(path), path, trust_remote_code)
        return path
    folder = work / f"gguf-{file_digest(path)[:16]}"
    return folder if (folder / "config.json").is_file() else convert_gguf(path, folder)


def load_dense(folder: Path, dtype: torch.dtype | str = "auto", *, trust_remote_code: bool = False) -> nn.Module:
    """The whole model in memory, in eval mode; also a quantised folder of a kind that transformers loads."""
    check_counts(folder)
    config = causal_config(folder, trust_remote_code)
    _check_size(config, sum(file.stat().st_size for file in Reader(folder).files()), folder, trust_remote_code)
    # Only the explicit computation caps scores in every transformers 5; some releases drop the cap silently.
    capped = config.to_dict().get("attn_logit_softcapping") is not None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager" if capped else None,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
    except NONSENSE as error:
        raise ModelError(f"transformers cannot load {folder}: {first_line(error)}") from None
    return model.eval()


def _check_size(config: Any, nbytes: int, place: Path, trust_remote_code: bool = False) -> None:
    """Raises ModelError unless `nbytes` of files can hold the weights of this config."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except NONSENSE as error:
        raise ModelError(f"transformers cannot build the model of {place}: {first_line(error)}") from None
    check_weights(model, nbytes, place)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The folder's tokenizer."""
    check_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        tokenizer("a")  # some settings are only looked at now
        return tokenizer
    except Exception as error:  # the library of tokenizers raises no narrower class
        if type(error) is not Exception and not isinstance(error, NONSENSE):
            raise
        raise ModelError(f"transformers cannot load the tokenizer of {folder}: {first_line(error)}") from None


def check_tokenizer(folder: Path) -> None:
    """Raises ModelError, with the names it looked for, when the folder holds no vocabulary."""
    if not any(file.is_file() for name in TOKENIZER_FILES for file in folder.glob(name)):
        listed = ", ".join(TOKENIZER_FILES)
        raise ModelError(f"{folder} has no tokenizer: it needs one of {listed}; copy it from the original model")


def convert_gguf(file: Path, out: Path) -> Path:
    """A GGUF file -> the folder `out`: bfloat16 safetensors, config, tokenizer; written under a temporary name."""
    if find_spec("gguf") is None:
        raise ModelError(f"reading {file} needs the package gguf; install it with: pip install gguf")
    check_gguf(file)
    try:
        model, tokenizer = _read_gguf(file)
    except NONSENSE as error:
        raise ModelError(
            f"transformers cannot read the GGUF file {file}: {first_line(error)}; "
            "it is damaged, cut off, or of a kind that transformers does not convert"
        ) from None
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _plain(model).save_pretrained(partial, max_shard_size="5GB")
        tokenizer.save_pretrained(partial)
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(
            f"cannot write {file} as a model folder to {out}: {first_line(error)}; check space and permissions there"
        ) from None
    return out


def _read_gguf(file: Path) -> tuple[nn.Module, Any]:
    """The dense bfloat16 model and the tokenizer that a GGUF file holds."""
    source = {"gguf_file": file.name, "local_files_only": True}
    # Releases that can keep the weights packed have this class; older ones always unpack them.
    packing = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": packing(dequantize=True)} if packing else {}
    # transformers draws a progress bar here that it has no switch for.
    with redirect_stderr(StringIO()):
        _check_size(AutoConfig.from_pretrained(file.parent, **source), file.stat().st_size, file)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **dense, **source)
        return model, AutoTokenizer.from_pretrained(file.parent, **source)


def _plain(model: nn.Module) -> nn.Module:
    """The same weights in a model that never heard of GGUF: transformers refuses to save the one it loaded."""
    values = model.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path"):
        values.pop(key, None)
    config = type(model.config).from_dict(values)
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = GenerationConfig.from_dict(model.generation_config.to_dict())
    return fresh
