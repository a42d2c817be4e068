"""gptq: column by column, each column's rounding error corrected in the columns not yet rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniq.calibrate.method import METHODS
from omniq.calibrate.stats import Moments
from omniq.calibrate.trouble import Trouble
from omniq.calibrate.view import BlockView
from omniq.errors import UnsupportedError, UsageError
from omniq.grid import check_finite, minmax_grid
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

SLAB = 512
"""Columns of a factor that are solved for together."""


@METHODS.add("gptq")
@dataclass(frozen=True)
class GPTQ:
    """GPTQ (Frantar et al., arXiv:2210.17323).

    damp: share of the mean diagonal added to the Hessian. order: visit groups, and columns inside a group, by falling
    activation energy; groups stay whole, so no index has to be stored.
    """

    damp: float = 0.01
    order: bool = True

    summary = "error-compensated rounding from second-order statistics: minutes, no training"
    needs_data = True
    finishing = None

    def __post_init__(self) -> None:
        if not 0 < self.damp < 1:
            raise UsageError(f"damp is {self.damp}; it must be between 0 and 1, for example 0.01")

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Serves every scheme and architecture."""

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """QTensor by linear name; each set of linears sees the inputs that the quantised ones before it produce."""
        quantized: dict[str, QTensor] = {}
        with view.quantized_activations():
            for names in view.reading_order():
                moments = Moments()
                view.observe_input(view.inputs, names[0], moments)
                solved = self._solved({name: view.linear(name).weight.detach() for name in names}, moments, view)
                for name, q in solved.items():
                    view.linear(name).weight.data.copy_(q.dequantize())
                quantized |= solved
        return quantized

    def _solved(self, weights: dict[str, Tensor], moments: Moments, view: BlockView) -> dict[str, QTensor]:
        """Linears that read one tensor, solved together."""
        spec, *others = dict.fromkeys(view.specs[name].weight for name in weights)
        if others:
            raise UnsupportedError(
                f"{', '.join(weights)} of {view.name} read one tensor and are solved together, but are to have "
                f"{', '.join(str(one.bits) for one in (spec, *others))} bits; give them the same"
            )
        one = next(iter(weights.values()))
        gram = moments.gram(one.shape[1]).to(one.device)
        return solve_together(weights, gram, spec, view.storage, self, trouble=view.trace.trouble)


def solve_together(
    weights: Mapping[str, Tensor],
    gram: Tensor,
    spec: QuantSpec,
    storage: torch.dtype,
    settings: GPTQ,
    grids: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    trouble: Trouble | None = None,
) -> dict[str, QTensor]:
    """solve() of weights (N, K) by name as one tall weight: its rows do not depend on each other.

    trouble: notes the damping where the one asked for was too small.
    """
    noted = None if trouble is None else lambda taken: trouble.note_damping(weights, taken, settings.damp)
    tall = torch.cat(list(weights.values()))
    grid = None if grids is None else tuple(map(torch.cat, zip(*(grids[name] for name in weights), strict=True)))
    q = solve(tall, gram, spec, storage, settings, grid, noted)
    parts = [t.split([len(w) for w in weights.values()]) for t in (q.codes, q.scales, q.zeros)]
    return {name: QTensor(*part, spec) for name, *part in zip(weights, *parts, strict=True)}


def visiting_order(energy: Tensor, width: int) -> Tensor:
    """energy (K,) -> permutation (K,): whole groups by falling peak energy, columns likewise inside each."""
    groups = energy.view(-1, width)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    among = groups.amax(1).argsort(descending=True, stable=True)
    return (inside + torch.arange(groups.shape[0], device=energy.device).unsqueeze(1) * width)[among].reshape(-1)


def inverse_factor(gram: Tensor, damp: float) -> tuple[Tensor, float]:
    """gram (K, K) -> upper Cholesky factor of its inverse (K, K) float32, and the damping that this took.

    The damping grows until the factor exists; where none suffices, the factor is the identity, the damping infinite.

    Computed in float64. Of the reversed gram the Cholesky factor, reversed back, is upper, and inverting it gives the
    factor of the inverse: the inverse itself is never formed, and two matrices at most exist beside the gram.
    """
    hessian = gram.flip(0, 1).double()
    diagonal = hessian.diagonal().clone()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    for scale in (damp, 10 * damp, 100 * damp, 1000 * damp):
        hessian.diagonal().copy_(diagonal + scale * mean)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed and torch.isfinite(lower.diagonal()).all():
            del hessian
            upper = lower.flip(0, 1)
            del lower
            return _upper_inverse(upper), scale
    return torch.eye(len(gram), device=gram.device), torch.inf


def _upper_inverse(upper: Tensor) -> Tensor:
    """upper triangular (K, K) float64 -> its inverse in float32, some columns at a time."""
    out = torch.empty_like(upper, dtype=torch.float32)
    rows = torch.arange(len(upper), device=upper.device)
    for columns in rows.split(SLAB):
        unit = (rows.unsqueeze(1) == columns).double()
        out[:, columns] = torch.linalg.solve_triangular(upper, unit, upper=True).float()
    return out


def solve(
    weight: Tensor,
    gram: Tensor,
    spec: QuantSpec,
    storage: torch.dtype,
    settings: GPTQ,
    grid: tuple[Tensor, Tensor] | None = None,
    noted: Callable[[float], None] | None = None,
) -> QTensor:
    """weight (N, K), gram (K, K) = sum of x x^T -> QTensor whose error is small where the inputs have energy.

    grid: scales and zeros (N, G); None: each group's own range, when its turn comes. noted: told the damping.
    """
    n, k = weight.shape
    width = spec.width(k)
    order = visiting_order(gram.diagonal(), width) if settings.order else torch.arange(k, device=weight.device)
    work = weight.float()[:, order]
    factor, damping = inverse_factor(gram[order][:, order], settings.damp)
    if noted is not None:
        noted(damping)
    codes = torch.empty_like(work, dtype=torch.uint8)
    scales, zeros = [], []
    step = width * max(1, 128 // width) if width <= 128 else (128 if width % 128 == 0 else width)
    for start in range(0, k, step):
        stop = min(start + step, k)
        errors = torch.empty(n, stop - start, device=work.device)
        for column in range(start, stop):
            if column % width == 0:
                found = (
                    minmax_grid(work[:, column : column + width], QuantSpec(spec.bits, -1, spec.symmetric), storage)
                    if grid is None
                    else tuple(part[:, int(order[column]) // width, None] for part in grid)
                )
                scales.append(found[0])
                zeros.append(found[1])
            scale, zero = scales[-1][:, 0], zeros[-1][:, 0]
            code = ((work[:, column] / scale).round() + zero).clamp(0, spec.qmax)
            codes[:, column] = code
            error = (work[:, column] - (code - zero) * scale) / factor[column, column]
            errors[:, column - start] = error
            work[:, column:stop].addr_(error, factor[column, column:stop], alpha=-1)
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    q = _ordered(codes, scales, zeros, order, spec, storage)
    check_finite(weight, q.scales)
    return q


def _ordered(
    codes: Tensor, scales: list[Tensor], zeros: list[Tensor], order: Tensor, spec: QuantSpec, storage: torch.dtype
) -> QTensor:
    """Columns and groups in visiting order -> QTensor in the weight's own order."""
    back = order.argsort()
    width = spec.width(codes.shape[1])
    groups = (order[::width] // width).argsort()
    return QTensor(
        codes[:, back],
        torch.cat(scales, 1)[:, groups].to(storage),
        torch.cat(zeros, 1)[:, groups].to(torch.uint8),
        spec,
    )
