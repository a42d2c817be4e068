"""The embedding table and the output head at 8, 4 and 16 bits: values, sharing, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import save_tiny, tokens
from torch import nn

from omniq.errors import ModelError, UsageError
from omniq.hf import load_dense
from omniq.kernels.cpu import Cpu
from omniq.nn import DenseHead, QuantEmbedding, QuantLinear
from omniq.vocab.modules import quantize_tables
from omniq.vocab.rounding import quantized_table, table_spec

CPU = torch.device("cpu")


@pytest.fixture(params=["llama", "llama-tied", "gemma3_text"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    return load_dense(save_tiny(request.param, tmp_path / "model"), torch.float32)


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def replaced(model: nn.Module, bits: int) -> nn.Module:
    """The model with its float tables rounded as quantize_tables rounds them, still as floats."""
    twin = copy.deepcopy(model)
    for module in {twin.get_input_embeddings(), twin.get_output_embeddings()}:
        spec = table_spec(module.weight.shape[1], bits)
        module.weight = nn.Parameter(quantized_table(module.weight, spec).dequantize(), requires_grad=False)
    return twin


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("native", [True, False], ids=["cpu library", "torch"])
def test_the_model_computes_with_the_rounded_table(
    model: nn.Module, bits: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(Cpu, "refuse", lambda *_: "not in this test")
    ids, expected = tokens(2, 11), logits(replaced(model, bits), tokens(2, 11))
    quantize_tables(model, bits, CPU)
    assert isinstance(model.get_input_embeddings(), QuantEmbedding)
    assert isinstance(model.get_output_embeddings(), QuantLinear)
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)


def test_tied_tables_are_held_once(tmp_path: Path) -> None:
    model = load_dense(save_tiny("llama-tied", tmp_path / "model"), torch.float32)
    quantize_tables(model, 8, CPU)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert [t.data_ptr() for t in embedding.packed().values()] == [t.data_ptr() for t in head.packed().values()]


@pytest.mark.parametrize("bits", [8, 4])
def test_tying_weights_again_leaves_rounded_tables_as_they_are(model: nn.Module, bits: int) -> None:
    quantize_tables(model, bits, CPU)
    ids, expected = tokens(1, 7), logits(model, tokens(1, 7))
    model.tie_weights()
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=0)


def test_a_cast_of_the_model_changes_the_rows_and_not_the_table(model: nn.Module) -> None:
    quantize_tables(model, 8, CPU)
    embedding, ids = model.get_input_embeddings(), tokens(1, 7)
    before = embedding(ids)
    model.to(torch.bfloat16)
    assert embedding(ids).dtype == torch.bfloat16
    torch.testing.assert_close(embedding(ids).float(), before, rtol=2**-7, atol=1e-6)


def test_sixteen_bits_leave_the_values_as_they_are(model: nn.Module) -> None:
    ids, expected = tokens(1, 9), logits(model, tokens(1, 9))
    weight = model.get_output_embeddings().weight
    quantize_tables(model, 16, CPU)
    assert isinstance(model.get_output_embeddings(), DenseHead)
    assert model.get_output_embeddings().weight is weight
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-5, atol=1e-5)


def test_other_widths_and_unknown_embeddings_are_refused(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="embedding bits are 5; use 16, 8, 4"):
        quantize_tables(model, 5, CPU)

    class Odd(nn.Embedding):
        """An embedding that does more than look up."""

    model.set_input_embeddings(Odd(8, 32))
    with pytest.raises(ModelError, match=r"the embedding is a Odd.*16 bits"):
        quantize_tables(model, 8, CPU)


# The dense head ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 33), (513, 64), (1030, 100)])
def test_the_dense_head_is_as_exact_as_torch(n: int, k: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(k, n, dtype=dtype).requires_grad_(False)
    head.weight.copy_(torch.randn(n, k, generator=draw))
    for rows in (1, 3, 8, 9):
        x = torch.randn(rows, k, generator=draw).to(dtype)
        exact = x.double() @ head.weight.double().T + head.bias.double()
        plain = (head(x).double() - exact).abs().max()
        allowed = max(2 * plain, torch.finfo(dtype).eps * exact.abs().max())
        assert (DenseHead(head)(x).double() - exact).abs().max() <= allowed


def test_the_dense_head_takes_any_strides_and_leading_dimensions() -> None:
    head = nn.Linear(48, 70, bias=False).requires_grad_(False)
    wide = torch.randn(2, 5, 48)
    torch.testing.assert_close(DenseHead(head)(wide[:, -1:, :]), head(wide[:, -1:, :]))
    columns = torch.randn(48, 3)
    torch.testing.assert_close(DenseHead(head)(columns.T), head(columns.T))


def test_the_dense_head_gives_gradients_as_any_linear() -> None:
    head, x = nn.Linear(16, 8), torch.randn(1, 16, requires_grad=True)
    DenseHead(head)(x).sum().backward()
    torch.testing.assert_close(x.grad, head.weight.detach().sum(0, keepdim=True))
