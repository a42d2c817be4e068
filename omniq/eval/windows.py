"""The evaluation protocol: which tokens of a text are predicted, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omniq.errors import DataError, UsageError
from omniq.text import Tokenizer, documents, leading, prefix


@dataclass(frozen=True)
class EvalSpec:
    """text: file to evaluate on. windows: how many, spread evenly over the text; 0 takes all. length: tokens T of each.

    batch: windows run at a time; it does not change the result.
    """

    text: Path
    windows: int = 0
    length: int = 512
    batch: int = 1

    def __post_init__(self) -> None:
        for name, least in (("windows", 0), ("length", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"evaluation {name} is {getattr(self, name)}; it must be {least} or more")


def windows(spec: EvalSpec, tokenizer: Tokenizer) -> Tensor:
    """The text's windows (B, T) int64: non-overlapping, each after the tokenizer's own BOS if it has one."""
    text, _ = prefix((doc for doc in documents(str(spec.text)) if isinstance(doc, str)), limit=2**40)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)
    first = torch.tensor(leading(tokenizer), dtype=torch.int64)
    taken = spread(ids, spec.length - len(first), spec.windows, str(spec.text))
    return torch.cat([first.expand(len(taken), -1), taken], dim=1)


def spread(ids: Tensor, length: int, count: int, place: str = "the text") -> Tensor:
    """ids (n,) -> (B, T): of the n // T consecutive windows, `count` spread evenly from the first on, or all (0)."""
    have = len(ids) // length
    if have == 0 or count > have:
        need = f"{count} windows" if count else "a window"
        fix = f"ask for at most {have} windows" if have else f"use windows of at most {len(ids)} tokens"
        raise DataError(f"{place} holds {len(ids)} tokens, too few for {need} of {length}; {fix}, or give more text")
    grid = ids[: have * length].view(have, length)
    if count in (0, have):
        return grid
    return grid[torch.arange(count) * have // count]


def protocol(spec: EvalSpec, taken: Tensor, tokenizer: Tokenizer) -> str:
    """What was measured on the windows `taken` (B, T), as a sentence."""
    count, length = taken.shape
    bos = "after the tokenizer's BOS" if leading(tokenizer) else "no BOS token added"
    which = "spread evenly over" if spec.windows else "covering"
    return (
        f"{count} non-overlapping windows of {length} tokens {which} {spec.text.name}, {bos}, "
        f"{count * (length - 1)} predicted tokens, float32 log-softmax"
    )
