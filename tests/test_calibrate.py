"""The calibration loop: streams, schedule, presets, and what happens when numbers go wrong."""

from __future__ import annotations

import math

import pytest
import torch
from subjects import QUICK, Tiny, quantized_forward
from tiny import ARCHITECTURES, UNKNOWN, tokens

from omniq.calibrate import training
from omniq.calibrate.capture import block_inputs
from omniq.calibrate.method import METHODS
from omniq.calibrate.methods.gptq import GPTQ, inverse_factor, solve, visiting_order
from omniq.calibrate.methods.omniquant import OmniQuant
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.grids import LWC
from omniq.calibrate.pieces.let import parameters_of
from omniq.calibrate.run import Settings, Streams, embed, run
from omniq.calibrate.training import Training, minimize
from omniq.errors import ModelError, UsageError
from omniq.grid import encode, minmax_grid
from omniq.spec import LinearSpec, QuantSpec

LET = {"epochs": 1, "let": True}


def test_every_preset_is_covered_here():
    assert set(QUICK) == set(METHODS)


@pytest.mark.parametrize("preset", list(QUICK))
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_preset_yields_every_linear_of_every_architecture_once(name, preset):
    tiny = Tiny(name, "W3A16g16")
    blocks = tiny.blocks(preset, QUICK[preset])
    names = [n for block in blocks for n, _, _ in block]
    assert sorted(names) == sorted(tiny.subject.specs)
    assert all(math.isfinite(block.error) for block in blocks)


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_an_architecture_without_a_table_quantises_by_structure(name):
    tiny = Tiny(name, "W3A16g16")
    assert tiny.subject.adapter is None
    for preset in ("rtn", "gptq", "omniquant", "default"):
        blocks = tiny.blocks(preset, QUICK[preset])
        assert sum(len(block.linears) for block in blocks) == len(tiny.subject.specs)


def test_a_preset_that_needs_a_table_refuses_an_architecture_without_one():
    spec = LinearSpec.parse("W4A4")
    assert "add a file there" in METHODS["omniquant"]().refuse(spec, None)
    assert "add a file there" in METHODS["awq"]().refuse(spec, None)
    assert METHODS["omniquant"](let=False).refuse(spec, None) is None


@pytest.mark.parametrize("scheme", ["W3A16g16", "W4A16-asym", "W4A4", "W6A6", "W4A8-actasym"])
@pytest.mark.parametrize("name", ["llama", "opt", "gemma3_text", "qwen3_moe"])
def test_the_streams_end_where_the_assembled_model_does(name, scheme):
    """Target of a block is the original chain's output, its input the quantised chain's: checked at the end of both."""
    tiny = Tiny(name, scheme)
    ids = tokens(4, 24)
    last = tiny.blocks("omniquant", LET, ids, Settings(batch=2))[-1]
    for model, stream in ((tiny.dense, last.streams.original), (None, last.streams.quantized)):
        model = model or tiny.assembled(tiny.blocks("omniquant", LET, ids, Settings(batch=2)))
        norm = model.get_decoder().get_submodule("final_layer_norm" if hasattr_opt(model) else "norm")
        caught = []
        handle = norm.register_forward_pre_hook(lambda _m, args, caught=caught: caught.append(args[0]))
        quantized_forward(model, tiny.subject.specs if model is not tiny.dense else {}, ids)
        handle.remove()
        torch.testing.assert_close(torch.cat(caught), stream, rtol=1e-4, atol=1e-4)


def hasattr_opt(model):
    return model.config.model_type == "opt"


def test_without_anything_to_learn_omniquant_is_round_to_nearest():
    tiny = Tiny("llama", "W3A16g16")
    plain = tiny.blocks("rtn")
    idle = tiny.blocks("omniquant", {"clip": "none", "epochs": 3})
    for a, b in zip(plain, idle, strict=True):
        assert all(q.equal(p) for (_, q, _), (_, p, _) in zip(a, b, strict=True))


def test_zero_epochs_give_the_model_at_its_starting_values():
    tiny = Tiny("llama", "W3A16g16")
    for block in tiny.blocks("omniquant", {"epochs": 0}):
        for name, q, spec in block:
            weight = tiny.dense.get_submodule(name).weight.detach()
            assert q.equal(encode(weight, *LWC(weight, spec.weight, torch.float32)(weight), spec.weight, torch.float32))


@pytest.mark.parametrize("scheme", ["W2A16g16", "W3A16", "W4A16g16-asym", "W4A4"])
@pytest.mark.parametrize("clip", ["lwc", "step"])
def test_training_never_ends_above_its_start(scheme, clip):
    for block in Tiny("llama", scheme).blocks("omniquant", {"epochs": 4, "clip": clip}):
        assert block.trace.after <= block.trace.before
        assert block.trace.skipped_steps == 0


def test_training_learns():
    first = Tiny("llama", "W2A16").blocks("omniquant", {"epochs": 8, "lwc_lr": 0.1})[0]
    assert first.trace.after < 0.95 * first.trace.before


def test_what_is_trained_is_what_is_stored():
    """After training with transformations, shifts and clipping, the folded block computes what the trained one did."""
    tiny = Tiny("opt", "W4A4")
    view, _ = tiny.view()
    method = OmniQuant(epochs=2, let=True)
    trained = {}
    original = LearnableBlock.quantized
    try:
        LearnableBlock.quantized = lambda self, storage: (trained.update(self.effective()), original(self, storage))[1]
        quantized = method.block(view)
    finally:
        LearnableBlock.quantized = original
    for name, param in view.module.named_parameters():
        stored = (
            quantized[name.removesuffix(".weight")].dequantize() if name.removesuffix(".weight") in quantized else param
        )
        torch.testing.assert_close(stored, trained[name].detach(), rtol=0, atol=0)
    changed = [n for n, p in view.module.named_parameters() if "norm" in n]
    assert changed, "norms carry the fold"


def test_only_the_pieces_train_and_the_weights_stay_as_they_are():
    tiny = Tiny("llama", "W3A16g16")
    view, _ = tiny.view()
    before = {n: p.detach().clone() for n, p in view.module.named_parameters()}
    grids = {n: LWC(view.linear(n).weight.detach(), s.weight, torch.float32) for n, s in view.specs.items()}
    block = LearnableBlock(parameters_of(view.module), [], grids, view.specs)
    minimize(view, block, Training(2, 1e-2, 5e-3), None)
    assert all(torch.equal(before[n], p) for n, p in view.module.named_parameters())
    assert all(p.grad is None for p in view.module.parameters())
    assert all(p.requires_grad for p in block.parameters())
    weights = [view.linear(n).weight for n in view.specs]
    assert sum(p.numel() for p in block.parameters()) == sum(2 * w.shape[0] * (w.shape[1] // 16) for w in weights)


def test_the_second_target_adds_the_original_block_on_quantised_inputs():
    tiny = Tiny("llama", "W2A16")
    seen = {}
    original = training.minimize

    def spy(view, block, settings, augmented):
        seen[view.index] = (augmented, view.run(view.inputs))
        return original(view, block, settings, augmented)

    import omniq.calibrate.methods.omniquant as module

    module.minimize, kept = spy, module.minimize
    try:
        tiny.blocks("omniquant", {"epochs": 1})
    finally:
        module.minimize = kept
    for augmented, expected in seen.values():
        assert torch.equal(augmented, expected)


def test_a_step_that_is_not_finite_is_skipped_and_counted(monkeypatch):
    tiny = Tiny("llama", "W3A16g16")
    calls = {"n": 0}
    original = training._loss

    def sometimes_nan(*args):
        loss = original(*args)
        if not torch.is_grad_enabled():
            return loss
        calls["n"] += 1
        return loss * float("nan") if calls["n"] % 3 == 0 else loss

    monkeypatch.setattr(training, "_loss", sometimes_nan)
    blocks = tiny.blocks("omniquant", {"epochs": 3})
    assert sum(b.trace.skipped_steps for b in blocks) == calls["n"] // 3
    assert all(math.isfinite(b.error) for b in blocks)


def test_a_block_whose_every_step_fails_falls_back_to_its_start(monkeypatch):
    tiny = Tiny("llama", "W3A16g16")
    monkeypatch.setattr(training, "_loss", lambda *args: torch.tensor(float("nan"), requires_grad=True))
    failed = tiny.blocks("omniquant", {"epochs": 2})
    start = tiny.blocks("omniquant", {"epochs": 0})
    for a, b in zip(failed, start, strict=True):
        assert all(q.equal(p) for (_, q, _), (_, p, _) in zip(a, b, strict=True))


def test_equal_seeds_give_equal_results():
    runs = [Tiny("llama", "W3A16g16").blocks("omniquant", {"epochs": 2}) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert all(q.equal(p) for (_, q, _), (_, p, _) in zip(a, b, strict=True))
        assert torch.equal(a.streams.quantized, b.streams.quantized)


def test_sinks_are_left_out_of_the_loss_only_when_asked():
    target = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    target[:, 0] *= 100
    assert training.counted(target, skip_sinks=True).squeeze(-1).tolist() == [[0.0] + [1.0] * 9] * 2
    assert training.counted(target, skip_sinks=False).all()
    moved = target + torch.zeros_like(target).index_fill(1, torch.tensor([0]), 50.0)
    assert training._loss(moved, training.counted(target, True), [target]) == 0
    every = training.counted(target, False)
    plain = training._loss(moved, every, [target]) / every.sum()
    torch.testing.assert_close(plain, torch.nn.functional.mse_loss(moved, target))


@pytest.mark.parametrize("preset", list(QUICK))
def test_a_run_started_in_the_middle_ends_with_the_same_bits(preset):
    tiny = Tiny("llama", "W3A16g16")
    whole = tiny.blocks(preset, QUICK[preset])
    calls, _ = embed(tiny.subject, tokens(4, 24), Settings(batch=2))
    method = METHODS[preset](**QUICK[preset])
    resumed = list(run(tiny.subject, method, Settings(batch=2), calls, 1, whole[0].streams))
    assert [b.index for b in resumed] == [1]
    assert all(q.equal(p) for (_, q, _), (_, p, _) in zip(whole[1], resumed[0], strict=True))
    assert torch.equal(whole[1].streams.quantized, resumed[0].streams.quantized)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_recorded_inputs_replay_the_original_model(name):
    tiny = Tiny(name, "W4A16")
    ids = tokens(2, 24)
    modules = tiny.dense.get_submodule(tiny.subject.blocks)
    hidden, kwargs = block_inputs(tiny.dense, modules, ids)
    caught = []
    handle = modules[-1].register_forward_hook(lambda _m, _a, out: caught.append(out))
    with torch.no_grad():
        tiny.dense(input_ids=ids, use_cache=False)
        handle.remove()
        for module, arguments in zip(modules, kwargs, strict=True):
            out = module(hidden, **arguments)
            hidden = out[0] if isinstance(out, tuple) else out
    expected = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)


def test_linears_that_read_one_tensor_are_found_in_the_order_of_use():
    view, _ = Tiny("llama", "W4A16").view()
    order = view.reading_order()
    assert order == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]


@pytest.mark.parametrize(
    "spec", [QuantSpec(3, 16), QuantSpec(3, -1, False), QuantSpec(2, 32, False), QuantSpec(4, 48)], ids=str
)
def test_gptq_leaves_less_output_error_than_rounding(spec):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 96, generator=random)
    x = torch.randn(400, 96, generator=random) @ torch.randn(96, 96, generator=random) * torch.linspace(0.1, 3, 96)
    error = lambda q: ((q.dequantize() - weight) @ x.T).square().mean()  # noqa: E731
    plain = encode(weight, *minmax_grid(weight, spec, torch.float32), spec, torch.float32)
    assert error(solve(weight, x.T @ x, spec, torch.float32, GPTQ())) < 0.7 * error(plain)


def test_gptq_on_uncorrelated_inputs_of_equal_energy_is_round_to_nearest():
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(4, 16)
    q = solve(weight, torch.eye(32), spec, torch.float32, GPTQ())
    assert q.equal(encode(weight, *minmax_grid(weight, spec, torch.float32), spec, torch.float32))


def test_gptq_puts_codes_and_groups_back_in_their_own_order():
    """Inputs without correlation are compensated in nothing, whatever order their energies ask for."""
    weight = torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(4, 16)
    energy = torch.rand(48, generator=torch.Generator().manual_seed(1))
    energy += torch.tensor([10, 1, 20]).repeat_interleave(16)
    order = visiting_order(energy, 16)
    assert (order[::16] // 16).tolist() == [2, 0, 1]  # no order that is its own inverse
    assert not torch.equal(order[order], torch.arange(48))
    q = solve(weight, energy.diag(), spec, torch.float32, GPTQ())
    assert q.equal(encode(weight, *minmax_grid(weight, spec, torch.float32), spec, torch.float32))


@pytest.mark.parametrize("k", [12, 256])  # within a slab of columns, and over two
def test_gptq_matches_a_column_by_column_solve_in_float64(k):
    """Against the textbook loop: invert the Hessian anew after each column, no blocks, no Cholesky factor."""
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(4, k, generator=random)
    x = torch.randn(5 * k, k, generator=random)
    gram, spec = x.T @ x, QuantSpec(3, -1, symmetric=False)
    scales, zeros = minmax_grid(weight, spec, torch.float32)
    hessian = gram.double() + 0.01 * gram.double().diagonal().mean() * torch.eye(k)
    work, codes = weight.double().clone(), torch.zeros(4, k)
    for i in range(k):
        inverse = torch.linalg.inv(hessian[i:, i:])
        codes[:, i] = ((work[:, i] / scales[:, 0]).round() + zeros[:, 0]).clamp(0, 7)
        error = (work[:, i] - (codes[:, i] - zeros[:, 0]) * scales[:, 0]) / inverse[0, 0]
        work[:, i:] -= torch.outer(error, inverse[0])
    q = solve(weight, gram, spec, torch.float32, GPTQ(order=False))
    assert torch.equal(q.codes.double(), codes.double())


def test_the_visiting_order_keeps_groups_whole():
    order = visiting_order(torch.rand(64, generator=torch.Generator().manual_seed(0)), 16)
    assert sorted(order.tolist()) == list(range(64))
    assert all(len(set((order[i : i + 16] // 16).tolist())) == 1 for i in range(0, 64, 16))


def test_a_singular_hessian_still_has_a_factor():
    assert torch.isfinite(inverse_factor(torch.zeros(8, 8), 0.01)[0]).all()
    one = torch.zeros(8, 8)
    one[0, 0] = 1e6
    assert torch.isfinite(inverse_factor(one, 0.01)[0]).all()


def test_awq_lowers_the_error_of_a_block_with_loud_channels():
    tiny = Tiny("llama", "W3A16")
    with torch.no_grad():
        for layer in tiny.dense.model.layers:
            layer.input_layernorm.weight[:4] *= 20
            layer.post_attention_layernorm.weight[:4] *= 20
    plain, searched = tiny.blocks("rtn"), tiny.blocks("awq")
    assert searched[0].error < 0.8 * plain[0].error


@pytest.mark.parametrize("preset", ["gptq", "awq", "omniquant", "default"])
def test_experts_that_no_token_chose_are_quantised_by_their_weights_and_counted(preset):
    tiny = Tiny("qwen3_moe", "W4A16g16")
    ids = torch.full((1, 4), 7)  # one token only, so that two of the four experts take everything
    first = tiny.blocks(preset, QUICK[preset], ids, Settings(batch=1))[0]
    unseen = [name for name in first.trace.unreached if ".experts." in name]
    assert len(unseen) == 6
    for name, q, spec in first:
        if preset == "gptq" and name.removeprefix("model.layers.0.") in unseen:
            weight = tiny.dense.get_submodule(name).weight.detach()
            assert q.equal(encode(weight, *minmax_grid(weight, spec.weight, torch.float32), spec.weight, torch.float32))


@pytest.mark.parametrize("place", ["model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"])
def test_nan_weights_are_refused_by_name(place):
    tiny = Tiny("llama", "W4A16")
    tiny.dense.get_parameter(place).data.view(-1)[3] = float("nan")
    with pytest.raises(ModelError, match=place.replace(".", r"\.")):
        tiny.blocks("rtn")


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("omniquant", {"epochs": -1}),
        ("omniquant", {"clip": "x"}),
        ("omniquant", {"alpha": 2.0}),
        ("gptq", {"damp": 0.0}),
        ("awq", {"grid": 0}),
    ],
)
def test_settings_out_of_range_are_refused(preset, options):
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        METHODS[preset](**options)


def test_a_method_without_data_needs_no_streams():
    tiny = Tiny("llama", "W4A16")
    blocks = list(run(tiny.subject, METHODS["rtn"](), Settings(), None))
    assert [b.streams for b in blocks] == [None, None]
    assert Streams(torch.zeros(1), torch.zeros(1)).original.shape == (1,)
