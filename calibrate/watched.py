"""A method at work on a block, watched: which groups are empty, and which rounding empties, is counted."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from omniq.calibrate.method import Method
from omniq.calibrate.view import BlockView
from omniq.errors import ModelError
from omniq.grid import grouped
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec


def watched(method: Method, view: BlockView) -> dict[str, QTensor]:
    """method.block(view), with its groups counted in the block's trouble; a ModelError names the block."""
    zero = {}
    for name, spec in view.specs.items():
        zero[name], constant = flat(view.linear(name).weight.detach(), spec.weight)
        view.trace.trouble.zero_groups += int(zero[name].sum())
        view.trace.trouble.constant_groups += int(constant.sum())
    try:
        quantized = method.block(view)
    except ModelError as error:
        raise ModelError(f"{view.name}: {error}") from None
    lost = (empty(q).to(zero[name].device) & ~zero[name] for name, q in quantized.items())
    view.trace.trouble.lost_groups = sum(int(groups.sum()) for groups in lost)
    return quantized


def flat(weight: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> which of its groups are all zero, and which all the same other number: (N, G) each."""
    lo, hi = torch.aminmax(grouped(weight, spec), dim=-1)
    same = lo == hi
    return same & (lo == 0), same & (lo != 0)


def empty(q: QTensor) -> Tensor:
    """Which groups (N, G) of a weight stand for zeros alone."""
    return (grouped(q.codes, q.spec) == q.zeros.unsqueeze(-1)).all(-1)


def note_reached(view: BlockView, tokens: Counter[str]) -> None:
    """tokens: how many reached each linear, on every process together."""
    view.trace.unreached = tuple(name for name in view.specs if not tokens[name])
    inputs = {name: view.linear(name).weight.shape[1] for name in view.specs}
    view.trace.trouble.scarce = tuple(name for name in view.specs if 0 < tokens[name] < inputs[name])
