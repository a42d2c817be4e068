"""How much the bits of each linear matter: the KL divergence that quantising it alone causes, for all at once.

Changing a weight (N, K) by dW moves the log-probability that the model gives to a text by about the sum of dW * G,
where G is that log-probability's gradient. Half the mean square of the sum, over texts drawn from the model's own
predictions, is to second order the KL divergence between the original's predictions and the changed model's. Labels
drawn for all positions of a sequence at once give it for the sequence, in one backward pass for all linears. Rounding
errors of different rows of a weight are independent, so the square is taken row by row: what rows have in common would
only add noise, and N rows of every sequence let a few thousand tokens suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omniq.calibrate.capture import BlockCalls, logits_after
from omniq.calibrate.hidden import Hidden, filled
from omniq.calibrate.ranks import ALONE
from omniq.calibrate.run import Settings, Subject, checked_reader, embed, materialized
from omniq.calibrate.view import activation_grids, precision
from omniq.errors import ModelError
from omniq.grid import fake_quantize, minmax_grid
from omniq.spec import QuantSpec

TOKENS = 8192
"""Calibration tokens that are looked at, at most: whole sequences, one at the least."""
HEAD_TOKENS = 512
"""Positions whose logits are in memory together."""


@dataclass(frozen=True)
class Sensitivities:
    """losses: by linear, the estimated KL in nats per token at each of the grids tried, that linear alone.

    together: pairs of linears that were seen to read one tensor.
    """

    losses: Mapping[str, tuple[float, ...]]
    together: frozenset[tuple[str, str]]


def measured_shape(samples: int, length: int) -> tuple[int, int]:
    """Calibration sequences and their length -> those that are looked at: TOKENS tokens at most, one at the least."""
    return min(samples, max(1, TOKENS // length)), length


def sensitivities(subject: Subject, ids: Tensor, settings: Settings, grids: Sequence[QuantSpec]) -> Sensitivities:
    """What rounding each linear to nearest on each of `grids` costs, measured on ids (B, T) through the original model.

    One process does it all. Needs in memory: one block in float32, its rounding errors for every grid in bfloat16, and
    what one sequence leaves in it for the backward pass; or what is outside the blocks with the logits of HEAD_TOKENS
    positions. In both cases also the hidden states (B, T, D) float32 after every block, unless settings.room puts them
    elsewhere.
    """
    settings = replace(settings, batch=1, ranks=ALONE)
    calls, streams = embed(subject, ids, settings)
    model = _Original(subject, calls, settings, grids)
    hidden = model.forward(streams.original)
    gradient = model.head_gradient(ids, hidden.pop())
    for index in reversed(range(len(subject.modules()))):
        gradient = model.backward(index, hidden.pop(), gradient)
    losses = {name: tuple((model.losses[name] / ids.numel()).tolist()) for name in subject.specs}
    broken = next((name for name, values in losses.items() if not all(map(math.isfinite, values))), None)
    if broken:
        raise ModelError(
            f"the gradients that reach {broken} are NaN or infinite; check that the model itself writes sense"
        )
    return Sensitivities(losses, frozenset(model.together))


class _Original:
    """The unquantised model, a block at a time, forwards and backwards.

    losses: by linear, what has been summed up for each grid (C,) float64. together: pairs that read one tensor.
    """

    def __init__(self, subject: Subject, calls: BlockCalls, settings: Settings, grids: Sequence[QuantSpec]) -> None:
        self.subject, self.calls, self.settings, self.grids = subject, calls, settings, grids
        self.as_tuple = False
        self.losses = {name: torch.zeros(len(grids), dtype=torch.float64) for name in subject.specs}
        self.together: set[tuple[str, str]] = set()

    def forward(self, first: Hidden) -> list[Hidden]:
        """What enters the first block (B, T, D) -> what enters each block, and last what leaves the last."""
        hidden = [first]
        for index in range(len(self.subject.modules())):
            with self._block(index), torch.no_grad():
                parts = (self._called(index, part).cpu() for part in self._parts(hidden[-1]))
                hidden.append(filled(self.settings.room, len(first), parts))
        return hidden

    def head_gradient(self, ids: Tensor, last: Hidden) -> Tensor:
        """ids (B, T), what leaves the last block (B, T, D) -> gradient (B, T, D) of sum log p(y), y drawn by it."""
        skeleton, device = self.subject.skeleton, self.settings.device
        names = [name for name, _ in skeleton.named_parameters() if not name.startswith(self.subject.blocks + ".")]
        draw = torch.Generator(device).manual_seed(self.settings.seed)
        gradient = torch.empty(last.shape)
        with materialized(skeleton, names, checked_reader(self.subject), device), torch.enable_grad():
            for row, hidden in enumerate(last):
                for places in torch.arange(ids.shape[1]).split(HEAD_TOKENS):
                    part = hidden[places].unsqueeze(0).to(device).requires_grad_()
                    chances = self._logits(ids[row, places].unsqueeze(0).to(device), part).log_softmax(-1)
                    drawn = torch.multinomial(chances.detach().exp(), 1, generator=draw)
                    chances.gather(1, drawn).sum().backward()
                    gradient[row, places] = part.grad[0].cpu()
        return gradient

    def backward(self, index: int, inputs: Hidden, gradient: Tensor) -> Tensor:
        """inputs of block `index`, gradient of what leaves it -> gradient of what enters it, (B, T, D) each."""
        before = torch.empty_like(gradient)
        with self._block(index) as names, self._watched(index, names), torch.enable_grad():
            for made, part, outer in zip(*map(self._parts, (before, inputs, gradient)), strict=True):
                x = part.to(self.settings.device, copy=True).requires_grad_()
                self._called(index, x).backward(outer.to(x.device))
                made.copy_(x.grad)
        return before

    def _parts(self, stream: Hidden) -> Iterable[Tensor]:
        """stream (B, T, D) in batches."""
        return stream.split(self.calls.batch)

    @contextmanager
    def _block(self, index: int) -> Iterator[dict[str, str]]:
        """Block `index` with its weights: its linears, name inside the block -> full name. No activation is rounded."""
        module, prefix = self.subject.modules()[index], f"{self.subject.blocks}.{index}."
        names = {full.removeprefix(prefix): full for full in self.subject.specs if full.startswith(prefix)}
        dense = {name: replace(self.subject.specs[full], input=None) for name, full in names.items()}
        leaves = [leaf for leaf, _ in module.named_parameters()]
        with (
            materialized(module, leaves, checked_reader(self.subject, prefix), self.settings.device),
            activation_grids(module, dense, None),
        ):
            yield names

    def _called(self, index: int, hidden: Tensor) -> Tensor:
        """hidden (b, T, D) -> what block `index` makes of it (b, T, D) float32."""

        def block(x: Tensor, **kwargs: object) -> object:
            out = self.subject.modules()[index](x, **kwargs)
            self.as_tuple = isinstance(out, tuple)
            return out

        with precision(self.settings.device, self.settings.autocast):
            return self.calls.forward(index, block, hidden.to(self.settings.device)).float()

    def _logits(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """ids (1, t), what leaves the last block (1, t, D) -> logits (t, V) float32."""
        with precision(self.settings.device, self.settings.autocast):
            return logits_after(self.subject.skeleton, self.subject.modules(), ids, hidden, self.as_tuple)[0].float()

    @contextmanager
    def _watched(self, index: int, names: Mapping[str, str]) -> Iterator[None]:
        """While open, backward passes of block `index` add to `losses`, forward passes to `together`."""
        last: list[tuple[Tensor, str]] = []
        module = self.subject.modules()[index]
        changes = {full: self._changes(module.get_submodule(name).weight) for name, full in names.items()}

        def watch(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
                if last and last[0][0] is args[0]:
                    self.together.add((last[0][1], name))
                last[:] = [(args[0], name)]
                x = args[0].detach()
                if out.requires_grad:
                    out.register_hook(lambda grad: self._add(name, changes[name], x, grad))

            return hook

        handles = [module.get_submodule(name).register_forward_hook(watch(full)) for name, full in names.items()]
        try:
            yield
        finally:
            last.clear()
            for handle in handles:
                handle.remove()

    def _changes(self, weight: Tensor) -> list[Tensor]:
        """weight (N, K) -> what rounding it on each grid adds to it, (N, K) bfloat16."""
        grids = [(spec, minmax_grid(weight, spec, self.subject.storage)) for spec in self.grids]
        return [(fake_quantize(weight, *grid, spec) - weight).bfloat16() for spec, grid in grids]

    @torch.no_grad()
    def _add(self, name: str, changes: list[Tensor], x: Tensor, grad: Tensor) -> None:
        """changes (N, K) each, x (..., K), grad (..., N): half the square of log p's change by each row."""
        with precision(self.settings.device, self.settings.autocast):
            slopes = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        slopes = slopes.float()
        for number, change in enumerate(changes):
            self.losses[name][number] += 0.5 * float((slopes * change).sum(-1).square().sum())
