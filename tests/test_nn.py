"""QuantLinear: what a module must survive (copies, casts, saving, compiling), and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from omniq.grid import encode, minmax_grid
from omniq.kernels.dispatch import KERNELS, select
from omniq.kernels.reference import linear
from omniq.nn import QuantLinear, swap_linear
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

SCHEMES = ["W4A16g32", "W3A16", "W2A16g32-asym", "W8A16", "W4A4", "W4A8g32-actasym", "W6A6-asym"]


def quantised(
    scheme: str, shape: tuple[int, int] = (40, 96), dtype: torch.dtype = torch.float32
) -> tuple[QTensor, LinearSpec]:
    """A random weight (N, K) on its min-max grid."""
    spec = LinearSpec.parse(scheme)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return encode(weight, *minmax_grid(weight, spec.weight, dtype), spec.weight, dtype), spec


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_module_computes_the_reference_plus_bias(scheme: str, with_bias: bool) -> None:
    q, spec = quantised(scheme)
    bias = torch.linspace(-3, 3, 40) if with_bias else None
    module, x = QuantLinear(q, spec, bias), inputs(2, 3, 96)
    expected = linear(x, q, spec) + (bias if with_bias else 0)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(96,), (5, 96), (0, 96), (2, 3, 4, 96)])
def test_any_leading_dimensions_are_kept(shape: tuple[int, ...]) -> None:
    q, spec = quantised("W4A16g32")
    assert QuantLinear(q, spec, torch.ones(40))(inputs(*shape)).shape == (*shape[:-1], 40)


def test_the_module_names_its_kernel_its_scheme_and_its_sizes() -> None:
    q, spec = quantised("W4A8g32")
    module = QuantLinear(q, spec)
    assert (module.in_features, module.out_features) == (96, 40)
    assert module.kernel == select(spec, (40, 96), torch.device("cpu"))
    assert repr(module) == f"QuantLinear(in_features=96, out_features=40, bias=False, W4A8g32, kernel={module.kernel})"


def test_weight_nbytes_counts_what_the_kernel_holds_and_not_the_bias() -> None:
    q, spec = quantised("W4A16g32")
    module = QuantLinear(q, spec, torch.ones(40))
    assert module.weight_nbytes() == sum(tensor.nbytes for tensor in KERNELS[module.kernel].prepack(q, spec).values())
    assert module.weight_nbytes() < 40 * 96 * 2


CASTS = {
    "bfloat16": lambda module: module.to(torch.bfloat16),
    "half, then bfloat16": lambda module: module.half().bfloat16(),
    "double, then bfloat16": lambda module: module.double().to(dtype=torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cast_of_the_model_changes_neither_codes_nor_scales(scheme: str, cast: str) -> None:
    bias = torch.arange(40) / 8 - 2  # exact in every dtype
    model = nn.Sequential(QuantLinear(*quantised(scheme), bias), nn.Linear(40, 8))
    x = inputs(4, 96).bfloat16()
    expected = model[0](x)
    before = {name: tensor.clone() for name, tensor in model[0].named_buffers() if name != "bias"}
    layer, head = CASTS[cast](model)
    after = {name: tensor for name, tensor in layer.named_buffers() if name != "bias"}
    assert layer.bias.dtype == head.weight.dtype == torch.bfloat16
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(layer(x), expected)


def test_a_deep_copy_is_independent() -> None:
    q, spec = quantised("W4A16g32")
    module = QuantLinear(q, spec)
    twin, x = copy.deepcopy(module), inputs(3, 96)
    expected = module(x)
    for buffer in twin.buffers():
        buffer.zero_()
    assert torch.equal(module(x), expected)
    assert not torch.equal(twin(x), expected)


def test_a_state_dict_carries_the_weight_and_the_bias() -> None:
    q, spec = quantised("W3A16g32-asym")
    module = QuantLinear(q, spec, torch.ones(40))
    other = QuantLinear(QTensor(q.codes.flip(0), q.scales, q.zeros, q.spec), spec, torch.zeros(40))
    x = inputs(3, 96)
    assert not torch.equal(other(x), module(x))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))


def test_a_gradient_is_refused_clearly_and_no_grad_is_not() -> None:
    q, spec = quantised("W4A16g32")
    module, x = QuantLinear(q, spec), inputs(3, 96).requires_grad_()
    with pytest.raises(RuntimeError, match=r"no gradients; run it under torch\.no_grad"):
        module(x)
    with torch.no_grad():
        assert torch.equal(module(x), module(x.detach()))
    assert list(module.parameters()) == []


def test_an_input_on_another_kind_of_device_is_refused_with_both_named() -> None:
    q, spec = quantised("W4A16g32")
    with pytest.raises(RuntimeError, match=r"packed for cpu by the kernel \w+, but its input is on meta"):
        QuantLinear(q, spec)(torch.empty(3, 96, device="meta"))


def test_a_weight_of_another_grid_than_announced_is_refused() -> None:
    q, _ = quantised("W4A16g32")
    with pytest.raises(ValueError, match=r"bits=4.*bits=3"):
        QuantLinear(q, LinearSpec.parse("W3A16g32"))


@pytest.mark.parametrize("scheme", ["W4A16g32", "W2A16g32-asym", "W4A8"])
def test_the_module_traces_without_a_graph_break(scheme: str) -> None:
    q, spec = quantised(scheme)
    module, x = QuantLinear(q, spec, torch.ones(40)), inputs(3, 96)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), module(x))


def test_swapping_replaces_the_one_module_named() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(96, 40), nn.Linear(40, 8)), "head": nn.Linear(8, 8)})
    q, spec = quantised("W4A16g32")
    layer, kept = QuantLinear(q, spec), model["a"][1]
    swap_linear(model, "a.0", layer)
    assert model["a"][0] is layer
    assert model["a"][1] is kept
    head = QuantLinear(*quantised("W4A16", (8, 8)))
    swap_linear(model, "head", head)
    assert model["head"] is head
