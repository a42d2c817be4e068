"""The compiled CUDA library: its calls in the words of csrc/cuda/library/problem.h, or why it cannot be used."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from omniq.kernels.shared_library import library_path, opened

LIBRARY = "_cuda.so"
OLDEST = (8, 0)
"""Compute capability of the oldest devices that the library is built for."""

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Weight(ctypes.Structure):
    """One packed weight, as cuda_layout.py makes it."""

    _fields_ = (
        ("codes", _POINTER),
        ("high", _POINTER),
        ("scales", _POINTER),
        ("zeros", _POINTER),
        ("outputs", _LONG),
        ("columns", _LONG),
        ("group", _LONG),
        ("bits", _INT),
        ("mid", _INT),
        ("scale_type", _INT),
    )


class Call(ctypes.Structure):
    """A product with floating-point activations, or the expansion of a weight."""

    _fields_ = (
        ("weight", Weight),
        ("x", _POINTER),
        ("y", _POINTER),
        ("partial", _POINTER),
        ("stream", _POINTER),
        ("rows", _LONG),
        ("stride", _LONG),
        ("splits", _INT),
        ("multiprocessors", _INT),
        ("device", _INT),
        ("x_type", _INT),
        ("y_type", _INT),
    )


class CodesCall(ctypes.Structure):
    """A product of integers on both sides."""

    _fields_ = (
        ("weight", Weight),
        ("x", _POINTER),
        ("x_scales", _POINTER),
        ("x_shifts", _POINTER),
        ("row_sums", _POINTER),
        ("y", _POINTER),
        ("stream", _POINTER),
        ("rows", _LONG),
        ("device", _INT),
        ("y_type", _INT),
    )


_WORDS = ctypes.POINTER(ctypes.c_uint32)
SIGNATURES = {
    "omniq_cuda_error": (ctypes.c_char_p, ()),
    "omniq_cuda_toolkit": (_INT, ()),
    "omniq_cuda_ready": (_INT, (_INT,)),
    "omniq_cuda_call_size": (_INT, ()),
    "omniq_cuda_codes_call_size": (_INT, ()),
    "omniq_cuda_group": (_INT, (_LONG, _INT)),
    "omniq_cuda_decode_warps": (_INT, (ctypes.POINTER(Call),)),
    "omniq_cuda_splits": (_INT, (ctypes.POINTER(Call),)),
    "omniq_cuda_decode": (_INT, (ctypes.POINTER(Call),)),
    "omniq_cuda_gemm": (_INT, (ctypes.POINTER(Call),)),
    "omniq_cuda_dequantize": (_INT, (ctypes.POINTER(Call),)),
    "omniq_cuda_w4a4": (_INT, (ctypes.POINTER(CodesCall),)),
    "omniq_cuda_unpack": (_INT, (_INT, _INT, _WORDS, _WORDS, ctypes.c_uint32, _INT, _WORDS)),
}
"""The library's functions: what they return and take, as in csrc/cuda/library/api.cu."""


def open_library(path: Path | None) -> tuple[ctypes.CDLL | None, str | None]:
    """(library, None), or (None, the reason it cannot be used)."""
    library, reason = opened(path, SIGNATURES, "CUDA", "the CUDA toolkit (nvcc)")
    if library is None:
        return None, reason
    sizes = (library.omniq_cuda_call_size(), library.omniq_cuda_codes_call_size())
    if sizes != (ctypes.sizeof(Call), ctypes.sizeof(CodesCall)):
        return None, f"the CUDA library {path} was built from other sources; install omniq again"
    return library, None


@cache
def cuda_library() -> tuple[ctypes.CDLL | None, str | None]:
    """The installed library, opened once, or the reason it cannot be used. Opening it touches no device."""
    return open_library(library_path(LIBRARY))


def missing() -> str | None:
    """Why the compiled library is not in use, as a sentence for the user; None when it is."""
    return cuda_library()[1]


def run(name: str, call: Call | CodesCall) -> None:
    """One call of the library; RuntimeError with its sentence where it fails."""
    library, reason = cuda_library()
    if library is None:
        raise RuntimeError(reason)
    if code := getattr(library, name)(ctypes.byref(call)):
        raise RuntimeError(f"the CUDA library refused a call (code {code}): {library.omniq_cuda_error().decode()}")


def device_refusal(device: torch.device) -> str | None:
    """Why the library does not run on `device`, or None."""
    if device.type != "cuda":
        return "it runs on NVIDIA GPUs only"
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU here"
    return _refusal(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _refusal(index: int) -> str | None:
    library, reason = cuda_library()
    if library is None:
        return reason
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return "it needs compute capability {}.{} or later; this GPU has {}.{}".format(*OLDEST, *capability)
    if library.omniq_cuda_ready(index):
        toolkit = library.omniq_cuda_toolkit()
        said = library.omniq_cuda_error().decode()
        version = f"{toolkit // 1000}.{toolkit % 1000 // 10}"
        return f"built with CUDA {version}, it does not run here: {said}; update the driver"
    return None


def place(device: torch.device) -> tuple[int, int, int]:
    """Where a call on a CUDA device runs: its index, the handle of torch's current stream, its multiprocessors."""
    return device.index, torch.cuda.current_stream(device).cuda_stream, _multiprocessors(device.index)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
