"""Statistics of what flows through a block: one pass of forward hooks over the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn


class Statistic(Protocol):
    """Accumulates over activations of one tensor."""

    def update(self, x: Tensor) -> None:
        """x (M, K), the rows of one batch."""


class AbsMax:
    """value (K,): the largest |x| of each channel."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        seen = x.abs().amax(0)
        self.value = seen if self.value is None else torch.maximum(self.value, seen)


class MidRange:
    """value (K,): exponential average over batches (0.99 old, 0.01 new) of each channel's (max + min) / 2."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        seen = (x.amax(0) + x.amin(0)) / 2
        self.value = seen if self.value is None else 0.99 * self.value + 0.01 * seen


class Moments:
    """gram (K, K) = sum of x x^T, mean_abs (K,) = mean |x|, over `rows` rows; float32."""

    def __init__(self) -> None:
        self.rows = 0
        self._gram: Tensor | None = None
        self._abs: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        if self._gram is None:
            self._gram = x.new_zeros(x.shape[1], x.shape[1])
            self._abs = x.new_zeros(x.shape[1])
        self._gram.addmm_(x.T, x)
        self._abs += x.abs().sum(0)
        self.rows += x.shape[0]

    def gram(self, k: int) -> Tensor:
        """Sum of outer products (K, K); zeros when no row arrived (an expert that no token chose)."""
        return torch.zeros(k, k) if self._gram is None else self._gram

    def mean_abs(self, k: int) -> Tensor:
        """Mean |x| per channel (K,); zeros when no row arrived."""
        return torch.zeros(k) if self._abs is None else self._abs / self.rows


@contextmanager
def watching(
    module: nn.Module, inputs: dict[str, Iterable[Statistic]], outputs: dict[str, Iterable[Statistic]]
) -> Iterator[None]:
    """While open, forward calls of `module` feed the statistics with the inputs and outputs of its named submodules."""

    def feed(stats: Iterable[Statistic], x: Tensor) -> None:
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        if flat.shape[0]:
            for stat in stats:
                stat.update(flat)

    def before(stats: Iterable[Statistic]) -> Callable[..., None]:
        return lambda _module, args: feed(stats, args[0])

    def after(stats: Iterable[Statistic]) -> Callable[..., None]:
        return lambda _module, _args, out: feed(stats, out)

    handles = [module.get_submodule(n).register_forward_pre_hook(before(s)) for n, s in inputs.items()]
    handles += [module.get_submodule(n).register_forward_hook(after(s)) for n, s in outputs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
