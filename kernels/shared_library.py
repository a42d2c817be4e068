"""What the compiled libraries share: how they are found and opened, and the number types that they know."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from omniq.errors import UnsupportedError
from omniq.qtensor import QTensor

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""dtype -> its number on the other side of the C interface."""
Signatures = Mapping[str, tuple[Any, Sequence[Any]]]
"""Function name -> (what it returns, what it takes), as ctypes types."""


def library_path(name: str, folders: Sequence[str] | None = None) -> Path | None:
    """The file `name` in the first of `folders` that holds it, or None. Without folders: those of omniq.kernels."""
    # An editable install keeps compiled files apart from the sources: the package has one folder for each.
    places = importlib.import_module("omniq.kernels").__path__ if folders is None else folders
    return next((path for folder in places if (path := Path(folder) / name).is_file()), None)


def opened(
    path: Path | None, signatures: Signatures, what: str, compiler: str
) -> tuple[ctypes.CDLL | None, str | None]:
    """(library, None), or (None, the reason it cannot be used). what: 'CPU' or 'CUDA'; compiler: what builds it."""
    if path is None:
        return None, f"the {what} library was not built: install {compiler}, then install omniq again"
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"the {what} library {path} does not load: {error}; install omniq again on this machine"
    return library, None


def check_scales(q: QTensor) -> None:
    """UnsupportedError for a weight whose scales are of a type that the libraries do not read."""
    if q.scales.dtype not in TYPES:
        raise UnsupportedError(f"scales are {q.scales.dtype}; compiled kernels take float32, bfloat16 and float16")
