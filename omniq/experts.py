"""Experts as one linear layer each. transformers 5 keeps those of a layer in two 3-D parameters, which no code that
looks for linear layers sees; calibration and the checkpoint need them apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class Expert(nn.Module):
    """down(act(gate(x)) * up(x)) from gate and up (I, D), down (D, I)."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act: Activation) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = _linear(gate), _linear(up), _linear(down)
        self.act_fn = act

    def forward(self, x: Tensor) -> Tensor:
        """x (M, D) -> (M, D)."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.ModuleList):
    """The experts of one layer, called as transformers calls its fused ones."""

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden (M, D), expert numbers and weights (M, top_k) -> (M, D), each token's weighted sum."""
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            token, place = torch.where(top_k_index == number)
            if len(token):
                part = expert(hidden[token]) * top_k_weights[token, place, None]
                out.index_add_(0, token, part.to(out.dtype))
        return out


def _linear(weight: Tensor) -> nn.Linear:
    """A linear layer without bias around weight (N, K), whose values it shares."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def is_fused(module: nn.Module) -> bool:
    """Whether `module` holds gate_up_proj (E, 2I, D) and down_proj (E, D, I) and computes what Expert computes."""
    params = dict(module.named_parameters(recurse=False))
    if set(params) != {"gate_up_proj", "down_proj"} or any(param.dim() != 3 for param in params.values()):
        return False
    (_, rows, d), (_, d_out, inner) = params["gate_up_proj"].shape, params["down_proj"].shape
    # A gate written in the model's own file clamps or interleaves; the shared one is act(gate) * up.
    gate = getattr(type(module), "_apply_gate", None)
    own = gate is None or gate.__module__ == type(module).__module__
    normed = getattr(module, "has_post_expert_norm", False)
    return (rows, d) == (2 * inner, d_out) and not own and not normed


def unfused(module: nn.Module) -> Experts:
    """A fused module (see is_fused) -> its experts apart, sharing the fused module's values; also on meta."""
    inner = module.down_proj.shape[2]
    gate_up, down = module.gate_up_proj.detach(), module.down_proj.detach()
    return Experts(Expert(g[:inner], g[inner:], d, module.act_fn) for g, d in zip(gate_up, down, strict=True))


def unfuse(model: nn.Module) -> int:
    """Replaces every fused experts module of `model` by its experts apart; the number replaced."""
    found = [(owner, name) for owner in model.modules() for name, child in owner.named_children() if is_fused(child)]
    for owner, name in found:
        setattr(owner, name, unfused(getattr(owner, name)))
    return len(found)
