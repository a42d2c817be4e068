"""Bounds: a config may not ask for more than the files beside it hold, which is seen before any of it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from omniq.checkpoint import Reader
from omniq.errors import ModelError
from omniq.source import config_values

COUNTS = re.compile(r"(layer|expert|block)s?$")
"""Settings that say how many modules are made, such as num_hidden_layers, n_layer and num_local_experts."""
FEW = 256
"""So many of anything do no harm."""
WEIGHTS_PER_BYTE, SPARE = 8, 1 << 20
"""No format stores a weight in less than a bit; SPARE weights may lack altogether."""
MAX_BUFFERS = 1 << 30
"""Bytes. What a model computes by itself, such as the frequencies of positions, is a few kilobytes."""


def check_counts(folder: Path) -> None:
    """Raises ModelError where config.json asks for more layers or experts than there are tensors for them.

    The experts of a layer may be one tensor with a dimension for them.
    """
    reader = Reader(folder)
    names = reader.names()
    largest = max((max(reader.info(name).shape, default=0) for name in names), default=0)
    limits = {"layer": len(names), "block": len(names), "expert": max(len(names), largest)}
    for name, value in _whole_numbers(config_values(folder)):
        counted = COUNTS.search(name)
        if counted and value > max(FEW, limits[counted[1]]):
            raise ModelError(
                f"{folder / 'config.json'} asks for {name} = {value}, but the weights beside it are {len(names)} "
                "tensors; config and weights do not belong together"
            )


def _whole_numbers(values: Any) -> list[tuple[str, int]]:
    """(name, number) of every whole number in nested mappings."""
    found = []
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if type(value) is int:
            found.append((name, value))
        found += _whole_numbers(value)
    return found


def check_weights(model: nn.Module, nbytes: int, place: Path) -> None:
    """Raises ModelError where a model on meta has far more weights than `nbytes` of files can hold."""
    wanted = sum(param.numel() for param in model.parameters())
    if wanted > WEIGHTS_PER_BYTE * nbytes + SPARE:
        raise ModelError(
            f"the config of {place} asks for {wanted} weights, but its files hold {nbytes} bytes; config and weights "
            "do not belong together"
        )
    check_buffers(model)


def check_buffers(model: nn.Module) -> None:
    """Raises ModelError where a model on meta would compute tables of absurd sizes for itself."""
    for name, buffer in model.named_buffers():
        if buffer.numel() * buffer.element_size() > MAX_BUFFERS:
            raise ModelError(
                f"config.json asks for a buffer {name} of shape {tuple(buffer.shape)}, more than {MAX_BUFFERS} bytes; "
                "it is damaged or of another model"
            )
