"""Statistics of what flows through a block: one pass of forward hooks over the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Protocol

import torch
from torch import Tensor, nn

from omniq.calibrate.ranks import Ranks


class Statistic(Protocol):
    """Accumulates over activations of one tensor."""

    def update(self, x: Tensor) -> None:
        """x (M, K), the rows of one batch."""

    def combine(self, ranks: Ranks) -> None:
        """Takes in what the other processes saw, once, after the last batch."""


class AbsMax:
    """value (K,): the largest |x| of each channel."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        seen = x.abs().amax(0)
        self.value = seen if self.value is None else torch.maximum(self.value, seen)

    def combine(self, ranks: Ranks) -> None:
        """The largest of all."""
        found = ranks.tensors(self.value)
        self.value = torch.stack(found).amax(0) if found else None


class MidRange:
    """value (K,): exponential average over batches (0.99 old, 0.01 new) of each channel's (max + min) / 2."""

    def __init__(self) -> None:
        self._seen: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        """x (M, K)."""
        self._seen.append((x.amax(0) + x.amin(0)) / 2)

    def combine(self, ranks: Ranks) -> None:
        """All batches in their order: the first of every process, then the second of every process."""
        turns = zip_longest(*ranks.tensors(torch.stack(self._seen) if self._seen else None))
        self._seen = [one for turn in turns for one in turn if one is not None]

    @property
    def value(self) -> Tensor | None:
        """The average (K,); None when no row arrived."""
        if not self._seen:
            return None
        found = self._seen[0]
        for seen in self._seen[1:]:
            found = 0.99 * found + 0.01 * seen
        return found


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

    def combine(self, ranks: Ranks) -> None:
        """The sums over all."""
        self._gram, self._abs = ranks.sum(self._gram), ranks.sum(self._abs)
        self.rows = sum(ranks.gathered(self.rows))

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
