"""End-to-end tuning of scales: its gradients, its loss, and that the integers stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from subjects import IDS, Tiny, trainer
from torch.nn import functional

from omniq.calibrate.endtoend import EndToEnd, Trainer, divergence, split
from omniq.calibrate.finished import Finished
from omniq.errors import UsageError


def reference(tiny: Tiny, made: Trainer, rows: torch.Tensor) -> torch.Tensor:
    """Mean KL of whole models of transformers, differentiable in the factors."""
    params = {}
    for index, block in enumerate(made.blocks):
        params |= {f"{tiny.subject.blocks}.{index}.{name}": value for name, value in block.parameters().items()}
    with torch.no_grad():
        wanted = tiny.dense(input_ids=IDS[rows], use_cache=False).logits.log_softmax(-1)
    got = torch.func.functional_call(
        copy.deepcopy(tiny.dense), params, (), {"input_ids": IDS[rows], "use_cache": False}
    )
    found = functional.kl_div(got.logits.log_softmax(-1), wanted, log_target=True, reduction="sum")
    return found / IDS[rows].numel()


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "qwen3_moe"])
def test_loss_and_gradients_are_those_of_the_whole_model(name: str) -> None:
    tiny, made = trainer(name)
    rows = torch.tensor([0, 2, 3])
    factors = [factor for block in made.blocks for factor in block.factors.values()]
    for factor in factors:
        factor.requires_grad_(True)
    expected = reference(tiny, made, rows)
    gradients = torch.autograd.grad(expected, factors, allow_unused=True)
    with made:
        found = made.gradients(rows)
    assert found == pytest.approx(float(expected.detach()), rel=1e-4)
    for factor, gradient in zip(factors, gradients, strict=True):
        wanted = torch.zeros_like(factor) if gradient is None else gradient
        torch.testing.assert_close(
            torch.zeros_like(factor) if factor.grad is None else factor.grad, wanted, rtol=2e-3, atol=2e-6
        )


@pytest.mark.parametrize("scheme", ["W3A16g16-asym", "W4A4"])
def test_tuning_lowers_the_divergence_and_leaves_the_integers(scheme: str) -> None:
    _, made = trainer("llama", scheme)
    codes = [{name: q.codes.clone() for name, q in block.linears.items()} for block in made.blocks]
    steps = []
    with made:
        found = made.tuned(EndToEnd(6, 4, 3e-3, 3e-3), lambda *step: steps.append(step))
    assert found.kl_after <= found.kl_before
    assert steps[-1][2] < steps[0][2]
    assert [step for step, _, _ in steps] == list(range(1, steps[-1][1] + 1))
    for block, known in zip(found.blocks, codes, strict=True):
        linears, floats = block.results()
        assert all(torch.equal(q.codes, known[name]) for name, q in linears.items())
        assert {name for name, value in block.floats.items() if value.dim() == 1} == set(floats)


def test_the_last_hidden_states_are_those_of_what_is_stored() -> None:
    tiny, made = trainer()
    with made:
        found = made.tuned(EndToEnd(1, 2, 1e-2, 1e-2), lambda *_: None)
    model = copy.deepcopy(tiny.dense)
    with torch.no_grad():
        for index, block in enumerate(found.blocks):
            linears, floats = block.results()
            module = model.get_submodule(tiny.subject.blocks)[index]
            for name, q in linears.items():
                module.get_submodule(name).weight.copy_(q.dequantize())
            for name, value in floats.items():
                module.get_parameter(name).copy_(value)
    caught = []
    model.model.norm.register_forward_pre_hook(lambda _m, args: caught.append(args[0]))
    with torch.no_grad():
        model(input_ids=IDS[:2], use_cache=False)
    torch.testing.assert_close(found.last, caught[0], rtol=1e-4, atol=1e-4)


def test_without_epochs_nothing_changes() -> None:
    _, made = trainer()
    with made:
        found = made.tuned(EndToEnd(0, 2, 1e-2, 1e-2), lambda *_: None)
    assert found.kl_before == found.kl_after
    for block in found.blocks:
        assert all(q.equal(block.linears[name]) for name, q in block.results()[0].items())


def test_scales_stay_on_what_the_storage_dtype_can_hold() -> None:
    _, made = trainer()
    block = Finished(made.blocks[0].linears, made.blocks[0].floats, torch.bfloat16)
    for factor in block.factors.values():
        factor.mul_(1.001)
    for name, q in block.results()[0].items():
        assert q.scales.dtype == torch.bfloat16
        torch.testing.assert_close(block.parameters()[f"{name}.weight"], q.dequantize(), rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 40, 128])
def test_what_judges_does_not_train(count: int) -> None:
    train, held = split(count)
    assert len(held) >= 1
    assert len(train) >= 1
    if count > 1:
        assert sorted(torch.cat([train, held]).tolist()) == list(range(count))


def test_divergence_is_that_of_the_definition() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]]).double()
    q = torch.tensor([[0.25, 0.5, 0.25]]).double()
    assert float(divergence(p.log(), q.log())) == pytest.approx(0.25 * float(torch.tensor(2.0).log()), rel=1e-5)


@pytest.mark.parametrize("values", [(-1, 1, 0.1, 0.1), (1, 0, 0.1, 0.1), (1, 1, -0.1, 0.1)])
def test_settings_out_of_range_are_refused(values: tuple) -> None:
    with pytest.raises(UsageError):
        EndToEnd(*values)
