"""Learned rounding: searched ranges, offsets, signed descent, and what the preset makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from subjects import Tiny

from omniq.calibrate import tuning
from omniq.calibrate.methods.gptq import GPTQ, solve, solve_together
from omniq.calibrate.methods.tuned import Default, alike
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.let import parameters_of
from omniq.calibrate.pieces.ranges import group_error, searched_ranges
from omniq.calibrate.pieces.rounding import Rounding, offsets_to
from omniq.calibrate.pieces.scaling import felt, searched_scales
from omniq.calibrate.tuning import Tuning, tune
from omniq.errors import UsageError
from omniq.grid import affine_grid, encode, extrema, grouped, minmax_grid
from omniq.qtensor import QTensor
from omniq.spec import QuantSpec

SPECS = [QuantSpec(bits, group, symmetric) for bits in (2, 3, 4) for group in (-1, 16) for symmetric in (True, False)]


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(rows: int = 200, k: int = 64) -> torch.Tensor:
    """Correlated inputs (M, K), some channels loud."""
    return seeded(rows, k, seed=1) @ seeded(k, k, seed=2) * torch.linspace(0.1, 3, k)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_groups_error_is_the_output_error_it_causes_alone(spec: QuantSpec) -> None:
    weight, x = seeded(6, 64), inputs()
    lo, hi = extrema(weight, spec)
    scales, zeros = affine_grid(lo, hi, spec, torch.float32)
    decoded = encode(weight, scales, zeros, spec, torch.float32).dequantize(torch.float64)
    moved = grouped(decoded - weight.double(), spec)
    parts = x.double().view(len(x), spec.groups(64), -1)
    expected = torch.einsum("ngw,mgw->mng", moved, parts).square().sum(0)
    gram = (x.double().T @ x.double()).float()
    width = spec.width(64)
    blocks = torch.stack([gram[i : i + width, i : i + width] for i in range(0, 64, width)])
    found = group_error(weight, lo, hi, spec, torch.float32, blocks)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_searched_ranges_hold_zero_and_lose_to_no_shrunk_range(spec: QuantSpec) -> None:
    weight, x = seeded(6, 64), inputs()
    gram = x.T @ x
    lo, hi = searched_ranges(weight, spec, torch.float32, gram)
    assert bool((lo <= 0).all() and (hi >= 0).all())

    def error(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        decoded = encode(weight, *affine_grid(low, high, spec, torch.float32), spec, torch.float32).dequantize()
        moved, parts = grouped(decoded - weight, spec).double(), x.double().view(len(x), spec.groups(64), -1)
        return torch.einsum("ngw,mgw->mng", moved, parts).square().sum(0)

    found, (least, most) = error(lo, hi), extrema(weight, spec)
    for ratio in (0.4, 1.0) if not spec.symmetric else (0.4,):
        assert bool((found <= error(ratio * least, ratio * most) * (1 + 1e-3) + 1e-3).all())
    assert float(found.sum()) < float(error(least, most).sum())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_offsets_lead_to_the_given_codes_and_are_zero_where_rounding_does(spec: QuantSpec) -> None:
    weight = seeded(6, 64)
    scales, zeros = minmax_grid(weight, spec, torch.float32)
    nearest = encode(weight, scales, zeros, spec, torch.float32)
    moved = (nearest.codes.int() + torch.randint(-1, 2, (6, 64), generator=torch.Generator().manual_seed(3))).clamp(
        0, spec.qmax
    )
    wanted = QTensor(moved.to(torch.uint8), nearest.scales, nearest.zeros, spec)
    grid = Rounding(weight, spec, torch.float32, *extrema(weight, spec), wanted)
    found_scales, found_zeros = grid(weight)
    assert torch.equal(found_scales, scales)
    found = encode(grid.moved(weight, found_scales).detach(), found_scales.detach(), found_zeros, spec, torch.float32)
    assert torch.equal(found.codes, wanted.codes)
    inside = weight / scales.repeat_interleave(spec.width(64), 1) - (moved - zeros.repeat_interleave(spec.width(64), 1))
    assert not offsets_to(weight, wanted)[inside.abs() < 0.4].any()


@pytest.mark.parametrize("scheme", ["W2A16g16", "W3A16-asym", "W4A16g16-asym", "W4A4"])
def test_tuning_never_ends_above_its_start(scheme: str) -> None:
    for block in Tiny("llama", scheme).blocks("default", {"steps": 8, "batch": 2, "scaling": 4}):
        assert block.trace.after <= block.trace.before
        assert block.trace.skipped_steps == 0


def test_tuning_learns() -> None:
    first = Tiny("llama", "W2A16g16").blocks("default", {"steps": 40, "batch": 2, "compensate": False})[0]
    assert first.trace.after < 0.9 * first.trace.before


def test_what_was_tuned_is_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    view, _ = Tiny("llama", "W3A16g16-asym").view()
    trained = {}
    quantized = LearnableBlock.quantized

    def noting(self: LearnableBlock, storage: torch.dtype) -> object:
        trained.update(self.effective())
        return quantized(self, storage)

    monkeypatch.setattr(LearnableBlock, "quantized", noting)
    found = Default(steps=4, batch=2, scaling=4).block(view)
    for name, param in view.module.named_parameters():
        linear = name.removesuffix(".weight")
        stored = found[linear].dequantize() if linear in found else param
        torch.testing.assert_close(stored, trained[name].detach(), rtol=0, atol=0)


def rounding_block() -> tuple[object, LearnableBlock]:
    """A view of a tiny block and the same with learnable rounding from min-max ranges."""
    view, _ = Tiny("llama", "W3A16g16").view()
    params = parameters_of(view.module)
    grids = {
        name: Rounding(
            params[f"{name}.weight"], spec.weight, torch.float32, *extrema(params[f"{name}.weight"], spec.weight)
        )
        for name, spec in view.specs.items()
    }
    return view, LearnableBlock(params, [], grids, view.specs)


def test_one_step_moves_every_offset_by_the_rate_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_measured", lambda *_: torch.tensor(-1.0) * next(falling))
    falling = iter(range(1, 100))
    view, block = rounding_block()
    tune(view, block, Tuning(1, 2, 0.25, 0.0))
    found = torch.cat([offset.detach().flatten() for offset in block.offsets()]).abs()
    assert set(found.unique().tolist()) <= {0.0, 0.25}
    assert float(found.mean()) > 0.2


def test_rates_fall_linearly_so_that_travel_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_measured", lambda *_: torch.tensor(-1.0) * next(falling))
    falling = iter(range(1, 100))
    view, block = rounding_block()
    tune(view, block, Tuning(10, 2, 0.1, 0.1))
    assert max(float(offset.detach().abs().max()) for offset in block.offsets()) <= 0.1 * (10 + 1) / 2 + 1e-6


def test_every_sequence_is_seen_before_one_is_seen_again() -> None:
    rows = torch.cat(list(tuning.steps(6, 6, 2, 0)))
    assert sorted(rows[:6].tolist()) == sorted(rows[6:].tolist()) == list(range(6))


def test_dropped_errors_do_not_count() -> None:
    out, target = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    out[0, 0, 0] = 100.0
    out[0, 1] = 1.0
    counts = torch.ones(1, 10, 1)
    assert float(tuning._loss(out, target, counts, 0.0)) == pytest.approx((100.0**2 + 10) / 100)
    assert float(tuning._loss(out, target, counts, 0.01)) == pytest.approx(10 / 100)


def test_a_step_that_is_not_finite_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = tuning._loss
    values = iter([math.nan] + [1.0] * 1000)
    monkeypatch.setattr(tuning, "_loss", lambda *args: loss(*args) * (next(values) if torch.is_grad_enabled() else 1.0))
    view, block = rounding_block()
    tune(view, block, Tuning(3, 2, 0.1, 0.1))
    assert view.trace.skipped_steps == 1
    assert all(bool(torch.isfinite(p).all()) for p in block.parameters())


@pytest.mark.parametrize("options", [{"steps": -1}, {"batch": 0}, {"drop": 1.0}, {"rounding_lr": -0.1}, {"damp": 2.0}])
def test_settings_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        Default(**options)


def test_linears_that_feel_the_same_inputs_are_solved_together_and_as_each_by_itself() -> None:
    x = inputs()
    gram, other = x.T @ x, seeded(64, 64).square() + 64 * torch.eye(64)
    spec = QuantSpec(3, 16, symmetric=False)
    grams = {"q": gram, "k": gram.clone(), "o": other}
    assert alike(grams, dict.fromkeys(grams, spec)) == [["q", "k"], ["o"]]
    assert alike(grams, {"q": spec, "k": QuantSpec(4, 16), "o": spec}) == [["q"], ["k"], ["o"]]
    weights = {"q": seeded(8, 64, seed=4), "k": seeded(4, 64, seed=5)}
    grids = {name: minmax_grid(weight, spec, torch.float32) for name, weight in weights.items()}
    together = solve_together(weights, gram, spec, torch.float32, GPTQ(), grids)
    for name, weight in weights.items():
        alone = solve(weight, gram, spec, torch.float32, GPTQ(), grids[name])
        assert torch.equal(together[name].scales, alone.scales)
        assert float((together[name].codes != alone.codes).float().mean()) < 0.01  # a tie may fall to either side


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_statistics_follow_the_scales_that_are_folded_away(name: str) -> None:
    view, _ = Tiny(name, "W3A16g16").view()
    found = felt(view, view.inputs)
    before = {linear: gram.clone() for linear, gram in found.grams.items()}
    params = searched_scales(view, parameters_of(view.module), found, 4)
    with torch.no_grad():
        for path, param in view.module.named_parameters():
            param.copy_(params[path])
    again = felt(view, view.inputs)
    assert any(not torch.allclose(before[linear], gram, rtol=0.1) for linear, gram in again.grams.items())
    for linear, gram in again.grams.items():
        torch.testing.assert_close(found.grams[linear], gram, rtol=1e-3, atol=1e-4 * float(gram.abs().max()))
        torch.testing.assert_close(found.means[linear], again.means[linear], rtol=1e-3, atol=1e-5)
