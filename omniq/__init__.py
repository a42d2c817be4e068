"""omniq: post-training quantisation of language models. Importing it loads neither torch nor transformers."""

from typing import Any

__version__ = "0.1.0"

_HOME = {"load": "omniq.runtime", "quantize": "omniq.pipeline"}


def __getattr__(name: str) -> Any:
    """`omniq.load` and `omniq.quantize`, imported from their modules at first use, because those need torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'omniq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
