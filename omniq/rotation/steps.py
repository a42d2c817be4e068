"""What happens to one stored tensor when a model is rotated: small functions on float64 tensors, applied in order.

Rows are vectors: a rotation Q takes x to x Q. A weight W (N, K) that reads x Q becomes W Q, one whose output y must
come out as y Q becomes Q^T W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.hadamard import transformed

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Turn:
    """The rotation diag(signs) T of vectors of one width, T as in omniq.hadamard; signs (n,) of +1 and -1 float64."""

    signs: Tensor

    def along(self, x: Tensor, dim: int) -> Tensor:
        """x with its axis `dim` of length n rotated."""
        return transformed(x.movedim(dim, -1) * self.signs).movedim(-1, dim).contiguous()


def random_turn(width: int, seed: int) -> Turn:
    """A rotation with random signs, the same for the same width and seed."""
    generator = torch.Generator().manual_seed(seed)
    return Turn(torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1)


def turned_columns(turn: Turn) -> Step:
    """W (N, K) of a linear, or an embedding (V, D), whose K channels are rotated."""
    return lambda weight: turn.along(weight, -1)


def turned_outputs(turn: Turn) -> Step:
    """W (N, K), or a bias (N,), whose N outputs are rotated."""
    return lambda tensor: turn.along(tensor, 0)


def scaled_columns(norm: Callable[[], Tensor]) -> Step:
    """W (N, K) with the weight (K,) of the norm before it folded in; `norm` reads it."""
    return lambda weight: weight * norm()


def filled(value: float) -> Step:
    """A norm's weight (K,) after it was folded into its readers."""
    return lambda weight: torch.full_like(weight, value)


def turned_head_outputs(turn: Turn, index: Tensor) -> Step:
    """W (N, K), or a bias (N,), whose rows `index`, some heads of `turn`'s width each, are rotated head by head."""

    def step(tensor: Tensor) -> Tensor:
        heads = tensor[index].view(-1, len(turn.signs), *tensor.shape[1:])
        return tensor.index_copy(0, index, turn.along(heads, 1).reshape(tensor[index].shape))

    return step


def turned_head_columns(turn: Turn) -> Step:
    """W (N, K) whose columns, heads of `turn`'s width side by side, are rotated head by head."""
    return lambda weight: turn.along(weight.view(len(weight), -1, len(turn.signs)), -1).reshape(weight.shape)
