"""Batch: token sequences to learn from, and what a model says about their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniq.subject.model import leaving
from omniq.subject.scoring import Encoded, keeps_logits


@dataclass(frozen=True, eq=False)
class Batch:
    """rows: B sequences. ids (B, T), padded on the right, which a causal model never looks at.

    mask (B, T - 1): whether the token after a position is to be predicted: M of them in the batch, row after row.
    """

    rows: tuple[Encoded, ...]
    ids: Tensor
    mask: Tensor

    @staticmethod
    def of(rows: Sequence[Encoded], device: torch.device) -> Batch:
        """The rows as tensors on a device."""
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width - 1, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, row.prompt - 1 : len(row.ids) - 1] = True
        return Batch(tuple(rows), ids.to(device), mask.to(device))

    @property
    def targets(self) -> Tensor:
        """The tokens to be predicted (M,)."""
        return self.ids[:, 1:][self.mask]

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each row are to be predicted (B,), float32."""
        return self.mask.sum(1).float()

    def summed(self, values: Tensor) -> Tensor:
        """values (M,) of the tokens -> their sum in each row (B,)."""
        owner = self.mask.nonzero()[:, 0]
        return values.new_zeros(len(self.rows)).index_add(0, owner, values)


def learnt(row: Encoded) -> int:
    """How many tokens of a sequence are to be predicted."""
    return len(row.ids) - row.prompt


def log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities (M, V) float32 before each token to be predicted; the output head sees no other position."""
    kept = batch.mask.any(0).nonzero().squeeze(1)
    narrow = keeps_logits(model)
    logits = model(input_ids=batch.ids, use_cache=False, **({"logits_to_keep": kept} if narrow else {})).logits
    logits = logits if narrow else logits[:, kept]
    return logits[batch.mask[:, kept]].float().log_softmax(-1)


def of_targets(log_p: Tensor, batch: Batch) -> Tensor:
    """log_p (M, V) -> -log p of the tokens to be predicted (M,)."""
    return -log_p.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)


class _Reached(Exception):
    """Raised behind the block whose output is wanted: nothing after it needs to run."""


def block_output(model: nn.Module, blocks: nn.ModuleList, batch: Batch, layer: int) -> Tensor:
    """Hidden states (M, D) float32 that block `layer` gives at the positions before each token to be predicted."""
    found: list[Tensor] = []

    def stop(module: nn.Module, args: tuple, out: Tensor | tuple) -> None:
        found.append(leaving(out))
        raise _Reached

    hook = blocks[layer].register_forward_hook(stop)
    try:
        model(input_ids=batch.ids, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    return found[0][:, :-1][batch.mask].float()


def passes(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices, longest first, in groups of at most `budget` padded tokens; a longer sequence is a group by itself."""
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    while order:
        fitting = max(1, budget // sizes[order[0]])
        yield order[:fitting]
        order = order[fitting:]
