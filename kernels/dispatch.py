"""Kernel: one way to compute a quantised linear layer, and the choice among them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.qtensor import QTensor
from omniq.registry import Registry
from omniq.spec import LinearSpec


class Kernel(Protocol):
    """One implementation. Nothing is shared between kernels but the QTensor they start from."""

    priority: int
    """Among the kernels that do not refuse, the highest runs."""

    approximate: bool
    """True where the kernel rounds more than the LinearSpec says (float activations to integers, say): it runs only
    where the caller asked for approximate kernels."""

    def refuse(self, spec: LinearSpec, shape: tuple[int, int], device: torch.device) -> str | None:
        """Why a layer of shape (N, K) cannot run here, as a sentence for the user, or None."""

    def prepack(self, q: QTensor, spec: LinearSpec) -> dict[str, Tensor]:
        """QTensor -> this kernel's own layout; done once, at load. The tensors become buffers of the layer."""

    def apply(self, x: Tensor, packed: dict[str, Tensor], spec: LinearSpec) -> Tensor:
        """x (M, K) -> (M, N) in x.dtype; quantises x first when spec.input says so."""


KERNELS: Registry[Kernel] = Registry("kernel", "omniq.kernels", optional=("triton",))


NOT_ASKED = "it rounds more than the scheme says, and approximate kernels were not asked for"


def refusals(
    spec: LinearSpec, shape: tuple[int, int], device: torch.device, approximate: bool = False
) -> dict[str, str | None]:
    """kernel name -> its reason not to run this layer, None where it would."""
    return {
        name: kernel.refuse(spec, shape, device) or (NOT_ASKED if kernel.approximate and not approximate else None)
        for name, kernel in KERNELS.items()
    }


def select(spec: LinearSpec, shape: tuple[int, int], device: torch.device, approximate: bool = False) -> str:
    """The name of the kernel of highest priority that takes the layer; UnsupportedError lists every reason."""
    reasons = refusals(spec, shape, device, approximate)
    able = [name for name, reason in reasons.items() if reason is None]
    if not able:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UnsupportedError(f"no kernel runs {spec} with (out, in) = {shape} on {device}: {listed}")
    return max(able, key=lambda name: KERNELS[name].priority)
