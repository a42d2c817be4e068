"""What reaches the decoder blocks: the hidden states of the first, and the keyword arguments of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omniq.errors import UnsupportedError

Kwargs = dict[str, Any]
CACHES = ("past_key_values", "past_key_value", "layer_past")


class _Reached(Exception):
    """Raised by the last block's stand-in: nothing after it needs to run."""


class _StandIn(nn.Module):
    """Stands in for a block and answers as it does: with a tensor, or a tuple that begins with one."""

    def __init__(self, block: nn.Module, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple
        self.facts = {k: v for k, v in vars(block).items() if isinstance(v, (str, bool, int))}

    def __getattr__(self, name: str) -> Any:
        # Some models read plain facts of a block, such as its attention type, before they call it.
        facts = self.__dict__.get("facts", {})
        return facts[name] if name in facts else super().__getattr__(name)

    def answer(self, hidden: Tensor) -> Tensor | tuple[Tensor]:
        """hidden (B, T, D), as the block would give it."""
        return (hidden,) if self.as_tuple else hidden


class _Recorder(_StandIn):
    """Records its input and keyword arguments and hands the hidden states on."""

    def __init__(self, block: nn.Module, log: list[tuple[Tensor, Kwargs]], last: bool, as_tuple: bool) -> None:
        super().__init__(block, as_tuple)
        self.log, self.last = log, last

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        if args:
            raise UnsupportedError(
                f"a decoder block takes {len(args)} positional arguments besides its input; omniq passes keywords"
            )
        self.log.append((hidden.detach(), kwargs))
        if self.last:
            raise _Reached
        return self.answer(hidden)


class _Answer(_StandIn):
    """Gives the same hidden states whatever it is called with."""

    def __init__(self, block: nn.Module, hidden: Tensor, as_tuple: bool) -> None:
        super().__init__(block, as_tuple)
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        return self.answer(self.hidden)


@contextmanager
def _replaced(blocks: nn.ModuleList, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """Puts a stand-in in the place of every block for the time of the context."""
    kept = list(blocks)
    try:
        for i, stand_in in enumerate(stand_ins):
            blocks[i] = stand_in
        yield
    finally:
        for i, block in enumerate(kept):
            blocks[i] = block


def block_inputs(model: nn.Module, blocks: nn.ModuleList, ids: Tensor) -> tuple[Tensor, list[Kwargs]]:
    """ids (B, T) -> hidden states of block 0 (B, T, D) float32, and one keyword-argument dict per block.

    The model's embeddings must hold real weights; its blocks are not run. Blocks that return a tuple are recognised
    by the shape that the next block receives.
    """
    for as_tuple in (False, True):
        log: list[tuple[Tensor, Kwargs]] = []
        recorders = [_Recorder(block, log, block is blocks[-1], as_tuple) for block in blocks]
        with _replaced(blocks, recorders), torch.no_grad():
            try:
                model(input_ids=ids, use_cache=False)
            except _Reached:
                pass
            except (IndexError, RuntimeError, TypeError):
                if as_tuple:
                    raise
                continue
        if len(log) == len(blocks) and all(hidden.shape == log[0][0].shape for hidden, _ in log):
            return log[0][0].float(), [_without_cache(kwargs) for _, kwargs in log]
    raise UnsupportedError(
        "the model does not hand hidden states from block to block in a way omniq knows "
        f"({len(log)} of {len(blocks)} blocks seen)"
    )


def logits_after(model: nn.Module, blocks: nn.ModuleList, ids: Tensor, hidden: Tensor, as_tuple: bool) -> Tensor:
    """ids (B, T), what the last block gives for them (B, T, D) -> logits (B, T, V), differentiable in `hidden`.

    The parameters outside the blocks must hold real weights. as_tuple: whether the blocks answer with a tuple.
    """
    with _replaced(blocks, [_Answer(block, hidden, as_tuple) for block in blocks]):
        return model(input_ids=ids, use_cache=False).logits


def _without_cache(kwargs: Kwargs) -> Kwargs:
    """Keyword arguments of a forward pass that keeps no cache."""
    return {k: None if k in CACHES else v for k, v in kwargs.items()}


class BlockCalls:
    """Runs block i on hidden states with the keyword arguments the model would give it.

    They depend on the number of sequences in some architectures (alibi), so each batch size has its own. They must not
    depend on the tokens: a model for which they do is refused. first: what the first batch gives block 0 (b, T, D).
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.first: Tensor | None = None
        self._kwargs: dict[int, list[Kwargs]] = {}

    def record(self, hidden: Tensor, kwargs: list[Kwargs]) -> None:
        """Takes over what block_inputs gave for one batch."""
        self.first = hidden if self.first is None else self.first
        _same(self._kwargs.setdefault(hidden.shape[0], kwargs), kwargs)

    def forward(self, index: int, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """hidden (b, T, D) -> the block's output (b, T, D); block is called as the model would call block `index`.

        Fewer sequences than were ever recorded together are filled up with the last one, whose copies are dropped.
        """
        count = hidden.shape[0]
        if count not in self._kwargs:
            hidden = torch.cat([hidden, hidden[-1:].expand(max(self._kwargs) - count, -1, -1)])
        out = block(hidden, **self._kwargs[hidden.shape[0]][index])
        return (out[0] if isinstance(out, tuple) else out)[:count]


def _same(known: list[Kwargs], seen: list[Kwargs]) -> None:
    """Refuses a model whose block arguments differ between batches of equal size."""
    for index, (a, b) in enumerate(zip(known, seen, strict=True)):
        for name, value in a.items():
            if isinstance(value, Tensor) and not (name in b and torch.equal(value, b[name])):
                raise UnsupportedError(
                    f"block {index} gets {name!r} computed from the tokens; omniq cannot replay such a block"
                )
