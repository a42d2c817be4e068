"""omniq: post-training quantisation of language models. Importing it loads neither torch nor transformers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniq.api import Quantized, evaluate, quantize
    from omniq.exporting.run import export
    from omniq.runtime import load

__version__ = "0.1.0"

__all__ = ["Quantized", "evaluate", "export", "load", "quantize"]

_HOME = {
    "Quantized": "omniq.api",
    "evaluate": "omniq.api",
    "export": "omniq.exporting.run",
    "load": "omniq.runtime",
    "quantize": "omniq.api",
}


if not TYPE_CHECKING:  # which would take it to have every name there is

    def __getattr__(name: str) -> Any:
        """The names of `__all__`, imported at first use, because their modules need torch."""
        if name not in _HOME:
            raise AttributeError(f"module 'omniq' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
