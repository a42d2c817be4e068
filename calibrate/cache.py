"""A folder of token files, each named by the hash of everything that decides its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def cached(
    folder: Path | None, key: str, shape: tuple[int, int], make: Callable[[], Tensor]
) -> tuple[Tensor, str | None]:
    """ids (B, T) from the cache or else from make(), and a sentence for the user when the cache failed in some way."""
    if folder is None:
        return make(), None
    file = folder / f"tokens-{key[:32]}.safetensors"
    found = file.exists()
    ids = read(file, key, shape) if found else None
    if ids is not None:
        return ids, None
    ids = make()
    try:
        write(file, key, ids)
    except OSError as error:
        return ids, f"the calibration tokens could not be kept in {folder} for the next run: {error.strerror}"
    return ids, f"the cached calibration tokens {file} were damaged and have been made again" if found else None


def read(file: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """ids (B, T) int64, or None when the file is damaged or is not the one that `key` names."""
    try:
        with safe_open(file, framework="pt") as stored:
            fine = (stored.metadata() or {}).get("key") == key and list(stored.keys()) == ["ids"]
            ids = stored.get_tensor("ids") if fine else None
    except (SafetensorError, OSError):
        return None
    if ids is None or ids.dtype != torch.int64 or tuple(ids.shape) != shape or ids.min() < 0:
        return None
    return ids


def write(file: Path, key: str, ids: Tensor) -> None:
    """Writes ids (B, T) under a temporary name, then renames: a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save({"ids": ids.contiguous()}, {"key": key}))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
