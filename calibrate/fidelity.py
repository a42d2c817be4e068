"""Fidelity: how far each quantised linear is from the weight it stands for, told from a few of the rows it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniq.calibrate.hidden import Hidden
from omniq.calibrate.ranks import Ranks
from omniq.grid import fake_quantize_tokens, grouped
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

INPUT_ROWS, WEIGHT_ROWS = 64, 128
"""Rows of a linear's input, and rows of its weight, that are looked at: enough to see trouble, too few to take time."""

TINY = 1e-30


@dataclass(frozen=True)
class Fidelity:
    """Of one linear, against its weight as folded, before rounding; shares and relative squared errors.

    output: error of what it computes from a few calibration tokens, rounding of its input included; None without any.
    weight: error of its weight. clipped: share of weights beyond the ends of their group's grid. code_bits: entropy
    of its codes, at most the bits they are stored in.
    """

    output: float | None
    weight: float
    clipped: float
    code_bits: float


@contextmanager
def sampling(module: nn.Module, names: Iterable[str], calls: int) -> Iterator[dict[str, Tensor]]:
    """While open, keeps up to INPUT_ROWS rows (R, K) of what each named linear reads, spread over `calls` of them."""
    parts: dict[str, list[Tensor]] = {}
    rows: dict[str, Tensor] = {}
    each = -(-INPUT_ROWS // max(1, calls))

    def take(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            flat = args[0].reshape(-1, args[0].shape[-1])
            left = min(each, INPUT_ROWS - sum(map(len, parts.get(name, ()))))
            if left > 0 and len(flat):
                step = max(1, len(flat) // left)
                parts.setdefault(name, []).append(flat[::step][:left].float().clone())

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(take(name)) for name in names]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
        rows.update({name: torch.cat(found) for name, found in parts.items()})


def looked_at(matrix: Tensor) -> Tensor:
    """matrix (N, K) or (N, G) -> up to WEIGHT_ROWS of its rows, spread evenly."""
    return matrix[:: -(-len(matrix) // WEIGHT_ROWS)]


@torch.no_grad()
def fidelity(q: QTensor, spec: LinearSpec, wanted: Tensor, rows: Tensor | None) -> Fidelity:
    """q (N, K) for looked_at() of the weight, `wanted` (n, K) float32; rows: (R, K) of its input before its grid."""
    q = QTensor(looked_at(q.codes), looked_at(q.scales), looked_at(q.zeros), q.spec)
    made, output = q.dequantize(), None
    if rows is not None:
        rows = rows.to(wanted.device)
        exact = rows @ wanted.T
        output = _relative(fake_quantize_tokens(rows, spec.input) @ made.T - exact, exact)
    return Fidelity(output, _relative(made - wanted, wanted), _clipped(wanted, q), _entropy(q.codes, q.spec.bits))


def _relative(error: Tensor, reference: Tensor) -> float:
    """The square of the error over that of the reference."""
    return float(error.norm() ** 2) / max(float(reference.norm() ** 2), TINY)


def _clipped(weight: Tensor, q: QTensor) -> float:
    """Share of a weight (n, K) that lies more than half a step beyond the lowest or the highest code."""
    steps = grouped(weight, q.spec) / q.scales.float().unsqueeze(-1) + q.zeros.unsqueeze(-1)
    return float(((steps < -0.5) | (steps > q.spec.qmax + 0.5)).float().mean())


def _entropy(codes: Tensor, bits: int) -> float:
    """Entropy in bits of codes (n, K), the same grid of 2**bits values for all."""
    shares = torch.bincount(codes.reshape(-1), minlength=2**bits).double() / codes.numel()
    return float(-(shares * shares.clamp(min=TINY).log2()).sum())


def fidelities(
    quantized: Mapping[str, QTensor],
    specs: Mapping[str, LinearSpec],
    wanted: Callable[[str], Tensor],
    rows: Mapping[str, Tensor],
) -> dict[str, Fidelity]:
    """Fidelity by name. wanted: name -> looked_at() of its weight, (n, K) float32, taken when its turn comes."""
    return {name: fidelity(q, specs[name], wanted(name), rows.get(name)) for name, q in quantized.items()}


def distance(stream: Hidden, original: Hidden, ranks: Ranks) -> float:
    """Squared difference of hidden states (B, T, D) relative to the original's power, a sequence at a time."""
    error = power = 0.0
    for quantized, wanted in zip(stream, original, strict=True):
        error += float((quantized - wanted).square().sum())
        power += float(wanted.square().sum())
    return ranks.mean(error, max(power, TINY))
