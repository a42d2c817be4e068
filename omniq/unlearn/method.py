"""Unlearner: how a model is made to forget; what a method is given, and the registry of methods."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from omniq.registry import Registry
from omniq.subject.model import Subject
from omniq.unlearn.batch import Batch, block_output, log_probabilities, of_targets

ANSWER, WRONG, REFUSAL = "answer", "wrong", "refusal"
"""What a method puts after a question of the forget set: the true answer, a wrong one of its kind, a refusal."""


class Reference:
    """theta0, the model before unlearning: a frozen copy. Its log-probability of a sequence is computed once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = replace(subject, model=copy.deepcopy(subject.model).eval().requires_grad_(False))
        self.known: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    @torch.no_grad()
    def nll(self, batch: Batch) -> Tensor:
        """-log p of each row's tokens to be predicted (B,)."""
        keys = [(row.prompt, tuple(row.ids)) for row in batch.rows]
        if not all(key in self.known for key in keys):
            values = batch.summed(of_targets(self.log_p(batch), batch))
            self.known.update(zip(keys, values, strict=True))
        return torch.stack([self.known[key] for key in keys])

    @torch.no_grad()
    def log_p(self, batch: Batch) -> Tensor:
        """Log-probabilities (M, V)."""
        return log_probabilities(self.subject.model, batch)

    @torch.no_grad()
    def states(self, batch: Batch, layer: int) -> Tensor:
        """Hidden states (M, D) that block `layer` gives."""
        return block_output(self.subject.model, self.subject.blocks, batch, layer)


@dataclass(eq=False)
class View:
    """Some sequences of a step, as the model in training and theta0 see them; computed when first asked for.

    sequences, tokens: of the whole step, which may be split into several views: `mean` and `token_mean` of all views of
    a step add up to the step's mean.
    """

    subject: Subject
    reference: Reference
    batch: Batch
    sequences: int
    tokens: int

    @cached_property
    def log_p(self) -> Tensor:
        """Log-probabilities (M, V)."""
        return log_probabilities(self.subject.model, self.batch)

    @cached_property
    def nll(self) -> Tensor:
        """-log p of each row's tokens to be predicted (B,)."""
        return self.batch.summed(of_targets(self.log_p, self.batch))

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each row are predicted (B,)."""
        return self.batch.lengths

    @property
    def reference_nll(self) -> Tensor:
        """nll (B,) under theta0."""
        return self.reference.nll(self.batch)

    @property
    def reference_log_p(self) -> Tensor:
        """log_p (M, V) under theta0."""
        return self.reference.log_p(self.batch)

    @property
    def depth(self) -> int:
        """The number of decoder blocks."""
        return len(self.subject.blocks)

    def states(self, layer: int) -> Tensor:
        """Hidden states (M, D) that block `layer` gives."""
        return block_output(self.subject.model, self.subject.blocks, self.batch, layer)

    def reference_states(self, layer: int) -> Tensor:
        """states (M, D) under theta0."""
        return self.reference.states(self.batch, layer)

    def mean(self, values: Tensor) -> Tensor:
        """values (B,) of the rows -> this view's share of their mean over the step."""
        return values.sum() / self.sequences

    def token_mean(self, values: Tensor) -> Tensor:
        """values (M,) of the tokens -> this view's share of their mean over the step."""
        return values.sum() / self.tokens

    def mean_nll(self) -> Tensor:
        """The mean over sequences of nll per token."""
        return self.mean(self.nll / self.lengths)


@dataclass(frozen=True, eq=False)
class Part:
    """Sequences that go through the model together.

    forget: questions of the forget set with what the method's `target` puts after them, or texts. refusal: the same
    questions with refusals, for a method that also wants those. retain: as many of the retain set, for one that
    retains.
    """

    forget: View
    refusal: View | None = None
    retain: View | None = None


class Terms(NamedTuple):
    """What is minimised: forget + retain, each with its weight."""

    forget: Tensor
    retain: Tensor | float = 0.0


class Unlearner(Protocol):
    """A frozen dataclass whose fields are the method's options, registered under the method's name.

    target: what the forget set's questions are answered with. contrast: whether it also wants refusals. retains:
    whether it looks at the retain set. lr, epochs: what it is usually run with.
    """

    summary: str
    target: str
    contrast: bool
    retains: bool
    lr: float
    epochs: int

    def loss(self, part: Part) -> Terms:
        """The share of a part in the step's loss."""

    def trained(self, subject: Subject) -> list[nn.Parameter]:
        """The weights that change."""


UNLEARNERS: Registry[type[Unlearner]] = Registry("unlearning method", "omniq.unlearn.methods")


def every_parameter(method: Any, subject: Subject) -> list[nn.Parameter]:
    """The `trained` of methods that change all weights."""
    del method
    return list(subject.model.parameters())
