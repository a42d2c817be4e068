"""Readout: what turns the last block's output into logits, found by structure and checked against the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniq.errors import UnsupportedError
from omniq.structure import blocks_path
from omniq.subject.model import Subject

AGREEMENT = 0.01
"""How far logits may differ from the model's own, as a share of the largest; half precision needs less than this."""


@dataclass(frozen=True, eq=False)
class Readout:
    """norm, then head, then cap * tanh(logits / cap) where the model caps its logits."""

    norm: nn.Module
    head: nn.Module
    cap: float | None = None

    @torch.no_grad()
    def __call__(self, states: Tensor) -> Tensor:
        """states (B, D) -> logits (B, V) float32."""
        logits = self.head(self.norm(states)).float()
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def final_norms(model: nn.Module, width: int) -> Iterator[nn.Module]:
    """Modules that can be the final norm, the last first, and at the end none at all.

    They lie outside the blocks and have no parts and no parameters but vectors (D,); without any, norm is in the name.
    """
    inside = blocks_path(model) + "."
    found = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        leaf = not any(True for _ in module.children()) and not name.startswith(inside)
        vectors = all(param.shape == (width,) for param in own)
        if leaf and vectors and (own or "norm" in type(module).__name__.lower()):
            found.append(module)
    yield from reversed(found)
    yield nn.Identity()


@torch.no_grad()
def readout(subject: Subject, text: str) -> Readout:
    """The Readout of a model that gives its own logits at the end of a text; UnsupportedError where none is found."""
    ids = torch.tensor([subject.start(text)], device=subject.device)
    last = subject.hidden(ids)[-1][:, -1]
    wanted = subject.model(input_ids=ids, use_cache=False).logits[:, -1].float()
    cap = getattr(subject.model.config.get_text_config(), "final_logit_softcapping", None)
    head = subject.model.get_output_embeddings()
    for norm in final_norms(subject.model, last.shape[-1]) if head is not None else ():
        found = Readout(norm, head, cap)
        if accepts(head, last) and (found(last) - wanted).abs().max() <= AGREEMENT * wanted.abs().max():
            return found
    raise UnsupportedError(
        f"{subject.label}: no final norm and output head give the model's own logits from its last block, so its "
        "layers cannot be read through them"
    )


def accepts(head: nn.Module, states: Tensor) -> bool:
    """Whether a head takes states of this width; a model may project them to another one first."""
    return getattr(head, "in_features", states.shape[-1]) == states.shape[-1]
