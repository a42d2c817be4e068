"""QuantLinear: what a module must survive (copies, casts, saving, compiling), and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from doubles import Rough
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
    for mine, other in zip(module.buffers(), twin.buffers(), strict=True):
        assert mine.data_ptr() != other.data_ptr()
        if other.is_floating_point():
            other.zero_()
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
    fresh = QuantLinear(QTensor(q.codes.flip(0), q.scales, q.zeros, q.spec), spec, torch.zeros(40))
    fresh.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(fresh(x), module(x))
    assert list(module.state_dict()) == [key for key, _ in module.named_buffers()]


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


TRACED = ["W4A16g32", "W2A16g32-asym", "W4A8", "W3A4-actasym"]


def traced_layer(scheme: str) -> QuantLinear:
    q, spec = quantised(scheme)
    return QuantLinear(q, spec, torch.ones(40))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("scheme", TRACED)
def test_the_module_compiles_without_a_graph_break_and_computes_the_same_bits(scheme: str, backend: str) -> None:
    module, x = traced_layer(scheme), inputs(2, 3, 96)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), module(x))


def test_any_number_of_rows_runs_in_one_compiled_graph() -> None:
    module, graphs = traced_layer("W4A16g32"), []

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend=counting, dynamic=True)
    for rows in (2, 3, 17, 64):
        assert torch.equal(compiled(inputs(rows, 96)), module(inputs(rows, 96)))
    assert len(graphs) == 1


def test_a_compiled_graph_holds_the_layer_as_one_operator() -> None:
    module, nodes = traced_layer("W4A16g32"), []

    def recording(graph: torch.fx.GraphModule, example: list[Tensor]) -> torch.fx.GraphModule:
        nodes.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compiler.reset()
    torch.compile(module, fullgraph=True, backend=recording)(inputs(3, 96))
    assert nodes.count(torch.ops.omniq.linear) + nodes.count(torch.ops.omniq.linear.default) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_computes_the_same_for_any_number_of_rows(strict: bool) -> None:
    module = traced_layer("W3A16")
    rows = torch.export.Dim("rows", min=2, max=512)
    program = torch.export.export(module, (inputs(5, 96),), dynamic_shapes=({0: rows},), strict=strict)
    assert any("omniq.linear" in str(node.target) for node in program.graph.nodes)
    for count in (2, 5, 33):
        assert torch.equal(program.module()(inputs(count, 96)), module(inputs(count, 96)))


def test_an_exported_program_survives_a_file(tmp_path: Path) -> None:
    module, x = traced_layer("W4A16g32"), inputs(5, 96)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "layer.pt2")
    assert torch.equal(torch.export.load(tmp_path / "layer.pt2").module()(x), module(x))


def operands(scheme: str, dtype: torch.dtype = torch.float32) -> tuple:
    """Arguments of the operator for a layer (40, 96) and five rows, by the kernel that dispatch chooses."""
    module = traced_layer(scheme)
    packed = {name: getattr(module, key) for name, key in module.leaves}
    return inputs(5, 96).to(dtype), list(packed.values()), list(packed), module.kernel, scheme, 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", TRACED)
def test_the_operator_keeps_what_it_promises_to_torch(scheme: str, dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.omniq.linear.default, operands(scheme, dtype))


def test_the_operator_says_shapes_without_values_on_the_meta_device() -> None:
    x, packed, *rest = operands("W4A16g32", torch.bfloat16)
    y = torch.ops.omniq.linear(x.to("meta"), [tensor.to("meta") for tensor in packed], *rest)
    assert (y.shape, y.dtype, y.device.type) == ((5, 40), torch.bfloat16, "meta")


def test_the_operator_refuses_a_gradient() -> None:
    x, *rest = operands("W4A16g32")
    y = torch.ops.omniq.linear(x.requires_grad_(), *rest)
    with pytest.raises(RuntimeError, match="no gradients"):
        y.sum().backward()


def test_a_compiled_layer_refuses_a_gradient_too() -> None:
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="no gradients"):
        torch.compile(traced_layer("W4A16g32"), backend="eager")(inputs(3, 96).requires_grad_())


def test_a_layer_that_is_not_traced_calls_its_kernel_and_not_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = traced_layer("W4A16g32"), inputs(3, 96)
    expected = module(x)
    monkeypatch.setattr("omniq.kernels.ops.traceable", None)
    assert torch.equal(module(x), expected)


def test_an_approximate_kernel_is_taken_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS._entries, "rough", Rough(7))
    q, spec = quantised("W4A16g32")
    assert QuantLinear(q, spec).kernel != "rough"
    module = QuantLinear(q, spec, approximate=True)
    assert "kernel=rough" in repr(module)
    assert module(inputs(2, 96)).unique().tolist() == [7]


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
