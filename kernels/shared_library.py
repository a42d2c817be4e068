"""Finding and opening the compiled libraries, which are called through ctypes."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
