"""How many optimiser steps a run takes, counted where PyTorch takes them, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType

from torch.optim.optimizer import register_optimizer_step_post_hook


def counted_steps() -> Callable[[], int]:
    """From now on, every step() of every torch optimiser in this process is counted; the result gives the count."""
    taken = []
    register_optimizer_step_post_hook(lambda *_: taken.append(None))
    return lambda: len(taken)


def counted_calls(owner: ModuleType, name: str) -> Callable[[], int]:
    """From now on, every call of a function of `owner` is counted: for steps that no torch optimiser takes."""
    inner, taken = getattr(owner, name), []

    @wraps(inner)
    def counting(*args, **kwargs):
        taken.append(None)
        return inner(*args, **kwargs)

    setattr(owner, name, counting)
    return lambda: len(taken)
