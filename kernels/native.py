"""The compiled CPU library: what the processor can do, or the reason why the library is not there."""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from pathlib import Path

LIBRARY = "_cpu.so"


def library_path(folders: tuple[str, ...]) -> Path | None:
    """The library in the first of `folders` that holds it, or None."""
    return next((path for folder in folders if (path := Path(folder) / LIBRARY).is_file()), None)


def open_library(path: Path | None) -> tuple[ctypes.CDLL | None, str | None]:
    """(library, None), or (None, the reason it cannot be used)."""
    if path is None:
        return None, "the CPU library was not built: install a C++ compiler such as g++, then install omniq again"
    try:
        library = ctypes.CDLL(str(path))
        library.omniq_cpu_isa.restype = ctypes.c_char_p
        library.omniq_cpu_has_bfloat16.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        return None, f"the CPU library {path} does not load: {error}; install omniq again on this machine"
    return library, None


@cache
def cpu_library() -> tuple[ctypes.CDLL | None, str | None]:
    """The installed library, opened once, or the reason it cannot be used."""
    # An editable install keeps compiled files apart from the sources: the package has one folder for each.
    return open_library(library_path(tuple(importlib.import_module("omniq.kernels").__path__)))


def cpu_isa() -> str | None:
    """'avx512vnni', 'avx2' or 'portable': the widest instruction set of this processor; None without the library."""
    library, _ = cpu_library()
    return library.omniq_cpu_isa().decode() if library else None


def cpu_bfloat16() -> bool | None:
    """Whether this processor has bfloat16 dot products, so that bfloat16 is fast; None without the library."""
    library, _ = cpu_library()
    return bool(library.omniq_cpu_has_bfloat16()) if library else None


def missing() -> str | None:
    """Why the compiled library is not in use, as a sentence for the user; None when it is."""
    return cpu_library()[1]
