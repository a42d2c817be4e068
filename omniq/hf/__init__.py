"""All that touches transformers: models opened for calibration, dense models, tokenizers, GGUF files."""

from omniq.hf.cache import growing_cache
from omniq.hf.files import VERSION, check_tokenizer, convert_gguf, hushed, load_dense, load_tokenizer, quiet, resolve
from omniq.hf.memory import checked_model, checked_tokenizer, evaluating, save_model
from omniq.hf.model import OpenModel, open_model
from omniq.hf.skeleton import ATTENTION, build_skeleton
from omniq.source import cache_folder, offline

__all__ = [
    "ATTENTION",
    "VERSION",
    "OpenModel",
    "build_skeleton",
    "cache_folder",
    "check_tokenizer",
    "checked_model",
    "checked_tokenizer",
    "convert_gguf",
    "evaluating",
    "growing_cache",
    "hushed",
    "load_dense",
    "load_tokenizer",
    "offline",
    "open_model",
    "quiet",
    "resolve",
    "save_model",
]
