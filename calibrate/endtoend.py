"""End-to-end tuning: scales and norms of the finished model, trained for the original's next-token distribution.

The integers stay as they are (Chen et al., arXiv:2407.11062, second phase), but the loss is the KL divergence from the
original model. One block at a time holds real weights: the forward pass keeps what enters each, and the backward pass
computes each once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from omniq.calibrate.capture import BlockCalls, logits_after
from omniq.calibrate.finished import Finished
from omniq.calibrate.hidden import Hidden, filled
from omniq.calibrate.run import Read, Settings, Subject, assign, checked_reader, materialized
from omniq.calibrate.view import activation_grids, precision
from omniq.errors import UsageError

FLOAT32 = 4
LOGITS = 1 << 25
"""Values of logits that exist at a time, at most."""
HELD_OUT = 16
"""One sequence in this many is kept out of training and judges it."""


@dataclass(frozen=True)
class EndToEnd:
    """epochs over the calibration samples, `batch` sequences a step; rates of Adam, falling to zero along a cosine.

    scale_lr: of a factor on every scale; norm_lr: of a factor on every entry of the norms.
    """

    epochs: int
    batch: int
    scale_lr: float
    norm_lr: float

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.scale_lr < 0 or self.norm_lr < 0:
            raise UsageError(
                f"final_epochs={self.epochs}, final_batch={self.batch}, scale_lr={self.scale_lr}, "
                f"norm_lr={self.norm_lr}: epochs and rates must be 0 or more, the batch 1 or more"
            )


def memory(
    spec: EndToEnd, weights: int, groups: int, block: int, vocabulary: int, hidden: int, blocks: int, length: int
) -> int:
    """Bytes beside the two streams: a byte for every code, a factor with its gradient, Adam's two moments and a copy.

    weights: of all linears, 0 where codes are read again for every step; groups: of all. block: weights of the largest,
    made anew with their gradients. blocks: whose inputs are in memory together. length: tokens T.
    """
    state = weights + groups * (2 + 5 * FLOAT32) + 4 * FLOAT32 * block + FLOAT32 * vocabulary * hidden
    logits = 5 * FLOAT32 * min(LOGITS, length * vocabulary)
    return state + logits + FLOAT32 * (blocks + 2) * spec.batch * length * hidden


@dataclass(frozen=True)
class Tuned:
    """What came out. kl_before, kl_after: in nats a token on the sequences that were held out.

    last: what the last block gives for the first batch (b, T, D), as the stored model computes it. skipped: steps left
    out, because their gradient was not finite.
    """

    blocks: tuple[Finished, ...]
    kl_before: float
    kl_after: float
    last: Tensor
    skipped: int = 0


class Trainer:
    """ids (B, T). first: what enters the first block, target: what the original's last block gives, (B, T, D) each.

    All three are of this process's samples. original: reads the original's parameters, where `subject` has others
    outside the blocks (a rounded table). A context: while it is open, what lies outside the blocks has real weights.
    """

    def __init__(
        self,
        subject: Subject,
        calls: BlockCalls,
        settings: Settings,
        ids: Tensor,
        first: Hidden,
        target: Hidden,
        blocks: Sequence[Finished],
        original: Read | None = None,
    ) -> None:
        self.subject, self.calls, self.settings = subject, calls, settings
        self.ids, self.first, self.target, self.blocks = ids, first, target, list(blocks)
        self.original, self.ranks, self.as_tuple = original, settings.ranks, False
        self.skipped = 0
        self._own: dict[str, Tensor] = {}
        self._originals: dict[str, Tensor] = {}

    def __enter__(self) -> Trainer:
        skeleton, device = self.subject.skeleton, self.settings.device
        names = [n for n, _ in skeleton.named_parameters() if not n.startswith(self.subject.blocks + ".")]
        self._outside = materialized(skeleton, names, checked_reader(self.subject), device)
        self._outside.__enter__()
        for name in names if self.original else ():
            value = self.original(name).to(device, torch.float32)
            if not torch.equal(value, skeleton.get_parameter(name)):
                self._own[name], self._originals[name] = skeleton.get_parameter(name), value
        return self

    def __exit__(self, *failure: object) -> None:
        self._outside.__exit__(*failure)

    def tuned(self, spec: EndToEnd, on_step: Callable[[int, int, float], None]) -> Tuned:
        """Trains the factors, the best of all epochs kept. on_step: (step, of how many, its KL)."""
        train, held = split(sum(self.ranks.gathered(len(self.ids))))
        before = best = self.kl(held)
        kept = self._snapshot()
        for _ in self._epochs(spec, train, on_step):
            found = self.kl(held)
            if found < best or not isfinite(best):
                best, kept = found, self._snapshot()
        self._restore(kept)
        last = self.forward(torch.arange(min(self.calls.batch, len(self.ids))))[-1]
        return Tuned(tuple(self.blocks), before, best, torch.stack(list(last)), self.skipped)

    def _epochs(self, spec: EndToEnd, train: Tensor, on_step: Callable[[int, int, float], None]) -> Iterator[None]:
        """Trains epoch by epoch."""
        groups = [
            ([f for block in self.blocks for f in block.scaled()], spec.scale_lr),
            ([f for block in self.blocks for f in block.bent()], spec.norm_lr),
        ]
        params = [factor for factors, _ in groups for factor in factors]
        for factor in params:
            factor.requires_grad_(True)
        optimizer = torch.optim.Adam([{"params": factors, "lr": lr} for factors, lr in groups if factors], foreach=True)
        total = spec.epochs * len(shuffled(train, spec.batch, torch.Generator()))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total, 1))
        generator, step = torch.Generator().manual_seed(self.settings.seed), 0
        for _ in range(spec.epochs):
            for rows in shuffled(train, spec.batch, generator):
                optimizer.zero_grad(set_to_none=True)
                loss = self.gradients(rows)
                for factor, grad in zip(params, self.ranks.sums([factor.grad for factor in params]), strict=True):
                    factor.grad = grad
                if all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in params):
                    optimizer.step()
                else:
                    self.skipped += 1
                schedule.step()
                step += 1
                on_step(step, total, loss)
            yield

    @torch.no_grad()
    def forward(self, rows: Tensor) -> list[Hidden]:
        """rows (b,) of this process's samples -> what enters each block and what leaves the last, (b, T, D) each."""
        hidden: list[Hidden] = [self.first[rows]]
        for index, block in enumerate(self.blocks):
            params = block.parameters()
            parts = [self._called(index, params, part).cpu() for part in self._parts(hidden[-1])]
            hidden.append(filled(self.settings.room, len(rows), parts))
        return hidden

    def kl(self, rows: Tensor) -> float:
        """Mean KL(original || quantised) over the tokens of some sequences of all, in nats."""
        own = self.ranks.own(rows)
        parts = own.split(self.calls.batch) if len(own) else ()
        total = sum(self._divergence(part, self.forward(part)[-1], learn=False)[0] for part in parts)
        return self.ranks.mean(total, len(own))

    def gradients(self, rows: Tensor) -> float:
        """The mean KL of some sequences of all; the gradient of this process's share is left in the factors."""
        own, total = self.ranks.own(rows), 0.0
        if len(own):
            hidden = self.forward(own)
            total, gradient = self._divergence(own, hidden.pop(), learn=True)
            gradient /= len(rows)
            for index in reversed(range(len(self.blocks))):
                gradient = self._backward(index, hidden.pop(), gradient)
        return self.ranks.mean(total, len(own))

    def _backward(self, index: int, inputs: Hidden, gradient: Tensor) -> Tensor:
        """The gradient (b, T, D) of what leaves a block -> of what enters it; the factors' is left in them."""
        with torch.enable_grad():
            params = self.blocks[index].parameters()
            moving = {name: tensor for name, tensor in params.items() if tensor.requires_grad}
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
            parts = []
            for x, outer in zip(self._parts(inputs), self._parts(gradient), strict=True):
                x = x.to(self.settings.device).requires_grad_()
                self._called(index, params | leaves, x).backward(outer.to(self.settings.device))
                parts.append(x.grad.cpu())
            reached = [name for name, leaf in leaves.items() if leaf.grad is not None]
            torch.autograd.backward([moving[name] for name in reached], [leaves[name].grad for name in reached])
        return torch.cat(parts)

    def _divergence(self, rows: Tensor, last: Hidden, learn: bool) -> tuple[float, Tensor]:
        """The KL summed over all tokens divided by the number of a sequence's, and its gradient in `last` (b, T, D)."""
        total, gradient = 0.0, torch.zeros(last.shape)
        length = self.ids.shape[1]
        places = torch.arange(length).split(max(1, LOGITS // self.subject.skeleton.config.vocab_size))
        with torch.set_grad_enabled(learn):
            for number, (row, hidden) in enumerate(zip(rows.tolist(), last, strict=True)):
                target = self.target[rows[number : number + 1]][0]
                for place in places:
                    x = hidden[place].unsqueeze(0).to(self.settings.device).requires_grad_(learn)
                    with torch.no_grad():
                        assign(self.subject.skeleton, self._originals.items())
                        wanted = self._logits(row, place, target[place].unsqueeze(0).to(self.settings.device))
                        assign(self.subject.skeleton, self._own.items())
                    loss = divergence(wanted, self._logits(row, place, x)) / length
                    total += float(loss.detach())
                    if learn:
                        loss.backward()
                        gradient[number, place] = x.grad[0].cpu()
        return total, gradient

    def _logits(self, row: int, place: Tensor, hidden: Tensor) -> Tensor:
        ids = self.ids[row, place].unsqueeze(0).to(self.settings.device)
        with precision(self.settings.device, self.settings.autocast):
            return logits_after(self.subject.skeleton, self.subject.modules(), ids, hidden, self.as_tuple)[0]

    def _called(self, index: int, params: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """hidden (b, T, D) -> what block `index` gives with these parameters (b, T, D) float32."""
        module, prefix = self.subject.modules()[index], f"{self.subject.blocks}.{index}."
        specs = {n.removeprefix(prefix): s for n, s in self.subject.specs.items() if n.startswith(prefix)}

        def block(x: Tensor, **kwargs: object) -> object:
            out = torch.func.functional_call(module, dict(params), (x,), kwargs)
            self.as_tuple = isinstance(out, tuple)
            return out

        with (
            activation_grids(module, specs, self.settings.attention),
            precision(self.settings.device, self.settings.autocast),
        ):
            return self.calls.forward(index, block, hidden.to(self.settings.device)).float()

    def _parts(self, stream: Hidden) -> Iterable[Tensor]:
        return stream.split(self.calls.batch)

    def _snapshot(self) -> list[dict[str, Tensor]]:
        return [{name: f.detach().clone() for name, f in block.factors.items()} for block in self.blocks]

    @torch.no_grad()
    def _restore(self, kept: list[dict[str, Tensor]]) -> None:
        for block, factors in zip(self.blocks, kept, strict=True):
            for name, value in factors.items():
                block.factors[name].copy_(value)


def split(count: int) -> tuple[Tensor, Tensor]:
    """Which of so many sequences train, and which, evenly spaced, judge; a single one does both."""
    held = torch.arange(HELD_OUT // 2, count, HELD_OUT) if count > HELD_OUT // 2 else torch.arange(count - 1, count)
    train = torch.tensor([i for i in range(count) if i not in set(held.tolist())] or [0])
    return train, held


def shuffled(rows: Tensor, batch: int, generator: torch.Generator) -> list[Tensor]:
    """rows (R,) once each in a random order, in steps that take one of each `batch`-th sample: see tuning.steps."""
    strata = [rows[rows % batch == rest] for rest in range(batch)]
    orders = [part[torch.randperm(len(part), generator=generator)] for part in strata if len(part)]
    longest = max(map(len, orders))
    return [torch.stack([order[step] for order in orders if step < len(order)]) for step in range(longest)]


def divergence(wanted: Tensor, logits: Tensor) -> Tensor:
    """Logits (M, V) of the original and of the quantised model -> the sum of KL(original || quantised), float32."""
    p, q = wanted.float().log_softmax(-1), logits.float().log_softmax(-1)
    # A token that the original excludes (log-probability -inf) adds nothing, whatever q says of it.
    return (p.exp() * (p - q)).masked_fill(p.isneginf(), 0.0).sum()
