"""rmu: steer the forget set's hidden states to a random direction (Li et al., arXiv:2403.03218)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniq.errors import UsageError
from omniq.models.adapter import UpFold, adapter_for
from omniq.subject.model import Subject
from omniq.unlearn.losses import steering, unit_vector
from omniq.unlearn.method import ANSWER, UNLEARNERS, Part, Terms

USUAL_LAYER = 7
"""The block whose output Li et al. steer, of 32."""


@UNLEARNERS.add("rmu")
@dataclass(frozen=True)
class RMU:
    """layer: the block whose output is steered (from 0); None: the 8th, or the middle one of a shallow model.

    c: length of the vector that the forget set is steered to. alpha: weight of retaining. down_only: of the blocks
    layer-2 to layer train only the last matrix of the MLP, where the architecture's table names it; else all weights of
    these blocks. vector_seed: of the direction.
    """

    layer: int | None = None
    c: float = 20.0
    alpha: float = 100.0
    down_only: bool = True
    vector_seed: int = 0

    summary = "steer the forget set's hidden states to a random direction, hold the retain set's"
    target = ANSWER
    contrast = False
    retains = True
    lr = 5e-5
    epochs = 10

    def at(self, depth: int) -> int:
        """The block that is steered in a model of `depth` blocks."""
        if self.layer is None:
            return min(USUAL_LAYER, (depth - 1) // 2)
        if not 0 <= self.layer < depth:
            raise UsageError(f"rmu: layer is {self.layer}; the model has blocks 0 to {depth - 1}")
        return self.layer

    def loss(self, part: Part) -> Terms:
        """Mean |h - c u|^2 over forget tokens + alpha mean |h - h0|^2 over retain tokens, h the block's output."""
        forget, retain, layer = part.forget, part.retain, self.at(part.forget.depth)
        states = forget.states(layer)
        goal = self.c * unit_vector(states.shape[-1], self.vector_seed).to(states.device)
        held = steering(retain.states(layer), retain.reference_states(layer))
        return Terms(forget.token_mean(steering(states, goal)), self.alpha * retain.token_mean(held))

    def trained(self, subject: Subject) -> list[nn.Parameter]:
        """The MLPs' last matrices in blocks layer-2 to layer, or all weights of these blocks."""
        last = self.at(len(subject.blocks))
        chosen = subject.blocks[max(0, last - 2) : last + 1]
        config = subject.model.config
        adapter = adapter_for(config.model_type, config.to_dict())
        downs = {fold.down for fold in adapter.folds if isinstance(fold, UpFold)} if adapter else set()
        found = [
            param
            for block in chosen
            for name, param in block.named_parameters()
            if name.removesuffix(".weight") in downs
        ]
        return found if found and self.down_only else list(chosen.parameters())
