"""The compiled CPU library: what the processor can do, or the reason why the library is not there."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from omniq.kernels.shared_library import library_path, opened

LIBRARY = "_cpu.so"
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_WEIGHT = (_POINTER, _POINTER, _INT, _POINTER, _INT, _INT, _LONG, _LONG, _LONG)
_OUTPUTS = (_POINTER, _POINTER, _POINTER)
SIGNATURES = {
    "omniq_cpu_isa": (ctypes.c_char_p, ()),
    "omniq_cpu_use_isa": (_INT, (ctypes.c_char_p,)),
    "omniq_cpu_has_bfloat16": (_INT, ()),
    "omniq_cpu_borrow_threads": (None, (_POINTER,)),
    "omniq_cpu_prefer_large_pages": (None, (_POINTER, _LONG)),
    "omniq_cpu_block_project": (
        _INT,
        (_POINTER, _POINTER, _INT, _LONG, _LONG, _POINTER, _POINTER, _LONG, *_OUTPUTS, _INT),
    ),
    "omniq_cpu_block_attend": (
        _INT,
        (_POINTER, _POINTER, _INT, _LONG, _LONG, _POINTER, _POINTER, *4 * (_LONG,), _POINTER, _INT),
    ),
    "omniq_cpu_block_finish": (_INT, (_POINTER, _POINTER, _INT, _LONG, _LONG, _POINTER, _POINTER, _INT)),
    "omniq_cpu_dense": (_INT, (_POINTER, _INT, _LONG, _LONG, _POINTER, _POINTER, _LONG, _LONG, _INT)),
    "omniq_cpu_expand": (_INT, (_LONG, _LONG, _POINTER, _INT, *_WEIGHT, _INT)),
    "omniq_cpu_linear": (_INT, (_POINTER, _INT, _LONG, _LONG, _POINTER, _LONG, *_WEIGHT, _INT, _INT)),
    "omniq_cpu_linear_codes": (_INT, (_POINTER, _POINTER, _LONG, _POINTER, _INT, _LONG, *_WEIGHT, _INT, _INT)),
}
"""The library's functions: what they return and take, as in csrc/cpu."""


def open_library(path: Path | None) -> tuple[ctypes.CDLL | None, str | None]:
    """(library, None), or (None, the reason it cannot be used)."""
    return opened(path, SIGNATURES, "CPU", "a C++ compiler such as g++")


@cache
def cpu_library() -> tuple[ctypes.CDLL | None, str | None]:
    """The installed library, opened once, or the reason it cannot be used."""
    library, reason = open_library(library_path(LIBRARY))
    if library:
        library.omniq_cpu_borrow_threads(torch_threads())
    return library, reason


def torch_threads() -> int | None:
    """The address of GOMP_parallel in torch's OpenMP, or None: then the library starts threads of its own.

    With threads of its own beside torch's, which stay awake for a while after each of torch's operations, both wait
    for the same cores: SmolLM2 decoded four times slower on two cores.
    """
    if "OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


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
