"""What something was derived from in a model, and whether the model is still the same there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

UNCOUNTED = -1
"""Stands for the version of an inference tensor, whose writes are not counted."""


class Origin(NamedTuple):
    """An entry of a module's parameters, buffers or submodules as it was.

    alias: keeps the memory of a tensor, so that no other can come to lie at its address. version: None for a module.
    """

    holder: dict[str, Any]
    name: str
    entry: Any
    address: int = 0
    version: int | None = None
    alias: Tensor | None = None


def tensor_origin(holder: dict[str, Any], name: str) -> Origin:
    """Of a tensor: another one in its place, a write into it and a move of its memory all count as a change."""
    tensor = holder[name]
    version = UNCOUNTED if tensor.is_inference() else tensor._version
    return Origin(holder, name, tensor, tensor.data_ptr(), version, tensor.detach())


def module_origins(root: nn.Module, paths: Iterable[str]) -> list[Origin]:
    """Of every submodule on the way from `root` to each of these dotted paths."""
    found = {}
    for path in paths:
        module = root
        for name in path.split("."):
            found[id(module), name] = Origin(module._modules, name, module._modules[name])
            module = module._modules[name]
    return list(found.values())


def unchanged(origins: Sequence[Origin]) -> bool:
    """Whether everything is as it was. Asked before every use, so it asks for no more than it must."""
    for holder, name, entry, address, version, _ in origins:
        if holder[name] is not entry:
            return False
        if version is None:
            continue
        if entry.data_ptr() != address or (version != UNCOUNTED and entry._version != version):
            return False
    return True
