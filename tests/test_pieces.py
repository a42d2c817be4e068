"""Learnable pieces: how they start, what they learn, and that transformations leave the function alone."""

from __future__ import annotations

import pytest
import torch
from subjects import Tiny
from tiny import ARCHITECTURES, VARIANTS

from omniq.calibrate.heads import Heads, rows
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.grids import GRIDS, LWC, LWC_START, MinMax, Step
from omniq.calibrate.pieces.let import (
    LetSpec,
    NormTransform,
    QueryKeyTransform,
    RowTransform,
    parameters_of,
    start_scale,
    statistics,
    transforms,
)
from omniq.calibrate.stats import AbsMax, MidRange
from omniq.grid import extrema, minmax_grid
from omniq.models.adapter import NormFold, Part, QueryKeyFold
from omniq.spec import QuantSpec

SPECS = [
    QuantSpec(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (-1, 16) for symmetric in (True, False)
]
TABLED = [*ARCHITECTURES, *VARIANTS]


def weight(rows: int = 12, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_lwc_with_wide_open_bounds_is_round_to_nearest(spec):
    lwc = LWC(weight(), spec, torch.float32)
    for bound in lwc.parameters():
        bound.data.fill_(30.0)
    for learned, plain in zip(lwc(weight()), minmax_grid(weight(), spec, torch.float32), strict=True):
        assert torch.equal(learned, plain)


def test_lwc_starts_at_the_range_scaled_by_sigmoid_of_four():
    spec = QuantSpec(4, 16, symmetric=False)
    lo, hi = extrema(weight(), spec)
    scales, _ = LWC(weight(), spec, torch.float32)(weight())
    torch.testing.assert_close(scales, (hi - lo) / 15 * 0.98201, rtol=1e-5, atol=0)
    assert LWC_START == 4.0


@pytest.mark.parametrize("group", [-1, 16])
def test_lwc_learns_two_values_per_group(group):
    params = LWC(weight(12, 64), QuantSpec(3, group), torch.float32).parameters()
    assert sum(p.numel() for p in params) == 2 * 12 * (64 // (64 if group == -1 else group))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_step_starts_where_lwc_starts_and_keeps_its_zero_packable(spec):
    step, lwc = Step(weight(), spec, torch.float32), LWC(weight(), spec, torch.float32)
    for a, b in zip(step(weight()), lwc(weight()), strict=True):
        torch.testing.assert_close(a, b)
    if not spec.symmetric:
        step.offset.data.fill_(1000.0)
        assert (step(weight())[1] == spec.qmax).all()


@pytest.mark.parametrize("name", list(GRIDS))
def test_every_grid_passes_gradients_to_all_it_learns_and_stores_what_the_dtype_holds(name):
    spec = QuantSpec(3, 16, symmetric=False)
    grid = GRIDS[name](weight(), spec, torch.bfloat16)
    scales, zeros = grid(weight())
    assert torch.equal(scales, scales.to(torch.bfloat16).float())
    for param in grid.parameters():
        (gradient,) = torch.autograd.grad((scales + zeros).sum(), param, retain_graph=True, allow_unused=True)
        assert gradient is not None
        assert torch.isfinite(gradient).all()


def let_of(tiny: Tiny, shift: bool = True):
    view, _ = tiny.view()
    params = parameters_of(view.module)
    inputs, outputs = statistics(view.adapter, params)
    view.observe(view.inputs, inputs, outputs)
    return view, params, transforms(view.adapter, params, view.heads, LetSpec(shift=shift), inputs, outputs)


def randomized(made, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for transform in made:
            transform.scale.copy_(torch.empty_like(transform.scale).uniform_(0.4, 2.5, generator=random))
            if transform.shift is not None:
                transform.shift.copy_(torch.empty_like(transform.shift).normal_(generator=random))
    return made


def doubled(view, params):
    """The block's output in float64 (float32 inside the norms of some models) with the given parameters."""
    module = view.module.double()
    out = [
        view.calls.forward(
            view.index, lambda x, **kw: torch.func.functional_call(module, params, (x,), _doubles(kw)), x.double()
        )
        for (x,) in view.batches(view.inputs)
    ]
    return torch.cat(out).detach()


def _doubles(kwargs):
    lift = lambda v: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v  # noqa: E731
    return {k: tuple(lift(x) for x in v) if isinstance(v, tuple) else lift(v) for k, v in kwargs.items()}


@pytest.mark.parametrize("name", TABLED)
def test_every_transformation_of_every_architecture_leaves_the_block_unchanged(name):
    view, params, made = let_of(Tiny(name, "W4A4"))
    assert made, "the table admits no transformation"
    exact = doubled(view, {n: p.double() for n, p in params.items()})
    for transform in randomized(made):
        transform.scale.data = transform.scale.data.double()
        if transform.shift is not None:
            transform.shift.data = transform.shift.data.double()
        folded = transform.fold({n: p.double() for n, p in params.items()})
        changed = [n for n in folded if not torch.equal(folded[n], params[n].double())]
        assert changed, "the transformation did nothing, so this test would prove nothing"
        error = (doubled(view, folded) - exact).abs().max() / exact.abs().max()
        assert error < 1e-6, f"{type(transform).__name__} on {changed}: {error}"


def test_an_identity_transformation_leaves_the_parameters_bit_for_bit():
    _, params, made = let_of(Tiny("opt", "W4A4"))
    for transform in made:
        transform.scale.data.fill_(1.0)
        if transform.shift is not None:
            transform.shift.data.fill_(0.0)
        folded = transform.fold(params)
        assert all(torch.equal(folded[name], params[name]) for name in params)


def test_a_query_key_scale_that_is_not_tied_over_rotary_pairs_changes_the_block():
    view, params, made = let_of(Tiny("llama", "W4A4"))
    (qk,) = (t for t in made if isinstance(t, QueryKeyTransform))
    qk.per_head = lambda: torch.linspace(0.5, 2, qk.heads.kv * qk.heads.dim).view(qk.heads.kv, qk.heads.dim)
    exact = view.run(view.inputs)
    moved = torch.cat([view.call(x, qk.fold(params)) for (x,) in view.batches(view.inputs)])
    assert (moved - exact).abs().max() / exact.abs().max() > 1e-3


def test_the_query_key_scale_is_tied_over_rotary_pairs_and_shared_in_a_kv_group():
    _, _, made = let_of(Tiny("llama", "W4A4"))
    (qk,) = (t for t in made if isinstance(t, QueryKeyTransform))
    randomized([qk])
    assert qk.scale.shape == (2, 8)
    first, second = qk.per_head().chunk(2, dim=-1)
    assert torch.equal(first, second)


def test_shifts_exist_where_the_architecture_has_biases_and_only_there():
    _, _, opt = let_of(Tiny("opt", "W4A4"))
    _, _, llama = let_of(Tiny("llama", "W4A4"))
    assert [t.shift is not None for t in opt if isinstance(t, NormTransform)] == [True, True]
    assert all(t.shift is None for t in llama)
    _, _, without = let_of(Tiny("opt", "W4A16"), shift=False)
    assert all(t.shift is None for t in without)


def test_a_transformation_starts_at_the_balance_of_activation_and_weight():
    act, columns = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 1.0])
    torch.testing.assert_close(start_scale(act, columns, 0.5), torch.tensor([2.0, 0.5, 0.01]))
    view, params, made = let_of(Tiny("llama", "W4A4"))
    norm = next(t for t in made if isinstance(t, NormTransform))
    seen = AbsMax()
    view.observe(view.inputs, {}, {norm.norm: [seen]})
    columns = torch.stack([params[f"{n}.weight"].abs().amax(0) for n in norm.linears]).amax(0)
    torch.testing.assert_close(norm.scale.data, start_scale(seen.value, columns, 0.5))


def test_a_scale_never_falls_below_its_floor_even_from_zero():
    _, params, made = let_of(Tiny("llama", "W4A4"))
    block = LearnableBlock(params, made, {}, {})
    for transform in made:
        transform.scale.data.zero_()
    block.project()
    assert all((t.scale == 1e-2).all() for t in made)


def test_activation_statistics_are_the_largest_magnitude_and_the_averaged_mid_range():
    parts = [torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    absmax, whole, mid = AbsMax(), AbsMax(), MidRange()
    for part in parts:
        absmax.update(part)
        mid.update(part)
    whole.update(torch.cat(parts))
    assert torch.equal(absmax.value, whole.value)
    ranges = [(p.amax(0) + p.amin(0)) / 2 for p in parts]
    torch.testing.assert_close(mid.value, 0.99 * (0.99 * ranges[0] + 0.01 * ranges[1]) + 0.01 * ranges[2])


def test_rows_of_a_fused_projection_cover_it_once():
    heads = Heads(q=6, kv=2, dim=4, rotary=4)
    for layout in ("concat", "grouped"):
        parts = [rows(Part("qkv", part, layout), heads, 40) for part in "qkv"]
        assert [len(p) for p in parts] == [24, 8, 8]
        assert sorted(torch.cat(parts).tolist()) == list(range(40))


def test_minmax_learns_nothing():
    assert MinMax(weight(), QuantSpec(4), torch.float32).parameters() == []


def test_folds_name_their_norms_once():
    assert QueryKeyFold(Part("q"), Part("k")).norms is False
    assert NormFold("n", ("a",)).linears == ("a",)


def test_a_row_transformation_shares_its_scale_over_the_heads_of_a_group():
    transform = RowTransform("v", torch.arange(4), "o", (2, 3), torch.tensor([1.0, 2.0, 3.0, 4.0]), None)
    assert transform.columns()["o"].tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]
    assert transform.gathered(torch.arange(12.0)).tolist() == [4, 5, 10, 11]
