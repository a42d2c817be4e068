"""A cache of keys and values that grows in place."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

SPARE = 256
"""Tokens of room beyond what is asked for."""


class GrowingLayer(DynamicLayer):
    """DynamicLayer without copying everything at every token: new keys and values go into room behind the old."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Starts empty; called with the first states (B, H, T, D)."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, D) of the new tokens -> those of all tokens (B, H, S, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old, new = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        # Another owner may have cropped or reordered the states since: then they no longer lie in the room.
        if self.room is None or new > self.room[0].shape[2] or self.keys.data_ptr() != self.room[0].data_ptr():
            self.room = (roomy(self.keys, new + SPARE), roomy(self.values, new + SPARE))
        keys, values = self.room
        keys.narrow(2, old, new - old).copy_(key_states)
        values.narrow(2, old, new - old).copy_(value_states)
        self.keys, self.values = keys.narrow(2, 0, new), values.narrow(2, 0, new)
        return self.keys, self.values


def roomy(states: Tensor, length: int) -> Tensor:
    """states (B, H, T, D) -> (B, H, length, D), of which the first T are theirs."""
    room = torch.empty(*states.shape[:2], length, states.shape[3], dtype=states.dtype, device=states.device)
    room[:, :, : states.shape[2]] = states
    return room


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for the model: as transformers makes it, with growing layers where it keeps every token."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
