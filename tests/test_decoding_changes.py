"""Fused blocks follow their model through copies, casts, replaced tensors, hooks, gradients and compiling."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from cpu_subjects import needs_library
from fused_subjects import MODELS, SCHEMES, Calls, dense_model, fuse, fused_model, logits, plain_blocks, quantised
from tiny import tokens
from torch import Tensor, nn

from omniq.decoding import FusedBlock
from omniq.nn import QuantLinear, swap_linear

pytestmark = needs_library
IDS = tokens(2, 9)


def assert_follows(model: nn.Module, before: Tensor | None = None, ids: Tensor = IDS) -> None:
    """Fused blocks compute what the modules hold now; with `before`, that this has changed."""
    ours = logits(model, ids)
    with plain_blocks(model):
        plain = logits(model, ids)
    eps = torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours, plain, rtol=0, atol=float(eps**0.5 * 0.5 * plain.float().std()) + 50 * eps)
    if before is not None:
        assert (ours - before).float().abs().max() > 0.02 * plain.float().std()


def other_norms(model: nn.Module) -> dict[str, Tensor]:
    """A state dict with every norm weight changed."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in state:
        if "norm" in name:
            state[name] += 0.5 * torch.randn_like(state[name])
    return state


def other_linear(model: nn.Module, path: str) -> QuantLinear:
    """A layer like the one at `path`, with other weights."""
    twin = copy.deepcopy(model.get_submodule(path))
    twin.get_buffer("packed_lines").random_(0, 256)
    return twin


def swap_other(path: str) -> Callable[[nn.Module], object]:
    """Puts a layer with other weights at `path`."""
    return lambda model: swap_linear(model, path, other_linear(model, path))


def swap_float(path: str) -> Callable[[nn.Module], object]:
    """Puts a layer in floating point at `path`."""
    return lambda model: swap_linear(model, path, nn.Linear(64, 96, bias=False).requires_grad_(False))


def places(model: nn.Module) -> list[int]:
    """Where the packed weights lie."""
    return [layer.get_buffer("packed_lines").data_ptr() for layer in model.modules() if isinstance(layer, QuantLinear)]


def change_scales(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith("packed_scales"):
            buffer.mul_(1.5)


def replace_norm(model: nn.Module) -> None:
    norm = copy.deepcopy(model.model.layers[1].input_layernorm)
    norm.weight.data.normal_()
    model.model.layers[1].input_layernorm = norm


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "other norms loaded": lambda m: m.load_state_dict(other_norms(m)),
    "other norms assigned": lambda m: m.load_state_dict(other_norms(m), assign=True),
    "a norm's values": lambda m: m.model.layers[0].input_layernorm.weight.mul_(3),
    "a norm's tensor": lambda m: setattr(
        m.model.layers[0].input_layernorm, "weight", nn.Parameter(torch.randn(64), False)
    ),
    "a norm": replace_norm,
    "scales in place": change_scales,
    "lines in place": lambda m: m.model.layers[0].mlp.up_proj.get_buffer("packed_lines").random_(0, 256),
    "a linear": swap_other("model.layers.0.mlp.up_proj"),
    "the query layer": swap_other("model.layers.1.self_attn.q_proj"),
    "a linear in floating point": swap_float("model.layers.0.mlp.up_proj"),
    "a whole MLP": lambda m: setattr(m.model.layers[0], "mlp", copy.deepcopy(m.model.layers[1].mlp)),
    "a norm cast down and back": lambda m: m.to(torch.bfloat16).to(torch.float32),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_change_to_the_model_is_seen_at_the_next_call(name: str, change: str) -> None:
    model = fused_model(name)
    before = logits(model, IDS)
    with torch.no_grad():
        CHANGES[change](model)
    assert_follows(model, None if "cast" in change else before)


def test_biases_are_followed_too() -> None:
    model = fused_model("qwen2")
    before = logits(model, IDS)
    model.model.layers[0].self_attn.q_proj.bias.add_(2)
    assert_follows(model, before)
    before = logits(model, IDS)
    model.model.layers[0].self_attn.v_proj.bias = torch.randn(64)
    assert_follows(model, before)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_cast_to_sixteen_bits_and_back_leaves_no_stale_copy(name: str) -> None:
    model = fused_model(name)
    logits(model, IDS)
    for dtype in (torch.bfloat16, torch.float32, torch.float16, torch.float32):
        model.to(dtype)
        assert_follows(model)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_copy_stands_on_its_own(name: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = fused_model(name)
    before = logits(model, IDS)
    twin = duplicate(model)
    for block in twin.model.layers:
        assert isinstance(block.forward, FusedBlock)
        assert block.forward.block is block
        assert block.forward.plain.__self__ is block
    with torch.no_grad():
        twin.load_state_dict(other_norms(twin))
    assert_follows(twin, before)
    assert torch.equal(logits(model, IDS), before)
    changed = logits(twin, IDS)
    del model
    gc.collect()
    assert torch.equal(logits(twin, IDS), changed)


def test_memory_that_moves_is_not_read_at_its_old_place() -> None:
    model = fused_model("llama")
    before = logits(model, IDS)
    old = places(model)
    model.share_memory()
    assert not set(old) & set(places(model))
    held = [block.forward.packed[torch.float32][0] for block in model.model.layers]
    assert torch.equal(logits(model, IDS), before)
    now = [block.forward.packed[torch.float32][0] for block in model.model.layers]
    assert all(new is not former for new, former in zip(now, held, strict=True))


def test_a_cache_of_another_dtype_is_refused() -> None:
    model = fused_model("llama")
    with torch.no_grad():
        cache = model(input_ids=IDS, use_cache=True).past_key_values
        model.to(torch.bfloat16)
        with pytest.raises(RuntimeError, match="dtype of the model"):
            model(input_ids=IDS[:, :1], past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("name", list(MODELS))
def test_inference_mode_and_no_grad_give_the_same(name: str) -> None:
    model, (_, other) = fused_model(name), quantised(dense_model(name), SCHEMES[name])
    with torch.inference_mode():
        inside = model(input_ids=IDS, use_cache=False).logits
        other, _ = quantised(dense_model(name), SCHEMES[name])
        assert fuse(other) is None
        assert torch.equal(other(input_ids=IDS, use_cache=False).logits, inside)
    assert torch.equal(logits(model, IDS), inside)
    assert torch.equal(logits(other, IDS), inside)


# --- gradients and compiling


@pytest.mark.parametrize("part", ["embed_tokens", "input_layernorm"])
def test_a_gradient_is_refused_as_before(part: str) -> None:
    model = fused_model("llama")
    for name, param in model.named_parameters():
        param.requires_grad_(part in name)
    with plain_blocks(model), pytest.raises(RuntimeError, match="no gradients"):
        model(input_ids=IDS, use_cache=False)
    with pytest.raises(RuntimeError, match="no gradients"):
        model(input_ids=IDS, use_cache=False)
    assert logits(model, IDS).isfinite().all()


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_compiled_model_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    model = fused_model(name)
    expected = logits(model, IDS)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model, IDS), expected)


def test_hooks_on_a_block_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, calls = fused_model("llama"), [], Calls(monkeypatch)
    model.model.layers[1].register_forward_hook(lambda module, args, output: seen.append(output))
    logits(model, IDS)
    assert [output.shape for output in seen] == [(2, 9, 64)]
    assert calls.count == 2


@pytest.mark.parametrize("path", ["self_attn", "mlp", "mlp.down_proj", "input_layernorm"])
@pytest.mark.parametrize("early", [True, False], ids=["called", "result"])
def test_a_block_with_hooks_inside_runs_its_own_forward(path: str, early: bool) -> None:
    model, seen = fused_model("llama"), []
    module = model.model.layers[1].get_submodule(path)
    if early:
        module.register_forward_pre_hook(lambda module, args: seen.append(1))
    else:
        module.register_forward_hook(lambda module, args, output: seen.append(1))
    logits(model, IDS)
    assert seen == [1]
