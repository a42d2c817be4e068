"""A rotated model is the same function: over all architectures that allow it, weights folded and inputs transformed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, UNKNOWN, VARIANTS, save_tiny, tokens
from torch import nn

from omniq.calibrate.run import assign
from omniq.errors import UnsupportedError
from omniq.hf import OpenModel, load_dense, open_model
from omniq.models.adapter import ADAPTERS, Stream, UpFold
from omniq.rotation.model import refusal, rotated
from omniq.rotation.steps import random_turn

NAMES = [*ARCHITECTURES, *VARIANTS, *UNKNOWN]
CHANGED = 1e-3
"""Weights that a rotation touches differ by far more than rounding."""


def opened(name: str, tmp_path: Path, dtype: torch.dtype = torch.float32) -> OpenModel:
    return open_model(save_tiny(name, tmp_path / name, dtype))


def logits(model: OpenModel, ids: torch.Tensor) -> torch.Tensor:
    """Of the skeleton with every parameter read."""
    names = [name for name, _ in model.skeleton.named_parameters()]
    assign(model.skeleton, [(name, model.read(name).float()) for name in names])
    with torch.no_grad():
        return model.skeleton(input_ids=ids).logits


@pytest.mark.parametrize("mode", ["fold", "online", "inputs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_rotated_model_computes_what_the_original_does(name: str, mode: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    if refusal(model, mode):
        pytest.skip(refusal(model, mode))
    with torch.no_grad():
        wanted = load_dense(model.folder)(input_ids=tokens()).logits
    turned = rotated(model, mode, seed=3)
    weights = [f"{linear}.weight" for linear in turned.linears]
    moved = [w for w in weights if (turned.read(w) - model.reader.read(model.names[w])).abs().max() > CHANGED]
    assert len(moved) == len(weights), "every linear reads or writes something rotated"
    assert torch.allclose(logits(turned, tokens()), wanted, rtol=2e-4, atol=2e-4 * wanted.abs().max())


def test_the_architectures_that_allow_a_rotated_stream_are_those_without_mean_or_norm_in_its_way() -> None:
    able = {name for name, adapter in ADAPTERS.items() if isinstance(adapter.stream, Stream)}
    assert able == {"llama", "qwen3", "phi3", "mixtral", "qwen2_moe", "qwen3_moe"}
    assert all(adapter.stream.endswith(("keep", "fold")) for name, adapter in ADAPTERS.items() if name not in able)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gemma3_text", "norm stands between"), ("opt", "subtract the mean"), ("olmo2", "no table in omniq/models")],
)
@pytest.mark.parametrize("mode", ["fold", "online"])
def test_a_stream_that_cannot_be_rotated_is_refused_with_the_reason_and_what_works(
    name: str, reason: str, mode: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=rf"{reason}.*--rotate inputs"):
        rotated(opened(name, tmp_path), mode, seed=0)


def test_no_rotation_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = opened("llama", tmp_path)
    assert rotated(model, "none", seed=0) is model


def test_a_tied_head_parts_from_the_embedding_and_config_says_so(tmp_path: Path) -> None:
    model = opened("llama-tied", tmp_path)
    turned = rotated(model, "fold", seed=0)
    assert not turned.tied
    assert turned.raw["tie_word_embeddings"] is False
    assert "lm_head.weight" in turned.reader
    assert "lm_head.weight" not in model.reader
    assert not torch.equal(turned.read("lm_head.weight"), turned.read("model.embed_tokens.weight"))


def test_transforms_of_inputs_alone_leave_the_table_tied(tmp_path: Path) -> None:
    model = opened("llama-tied", tmp_path)
    turned = rotated(model, "inputs", seed=0)
    assert turned.tied
    assert torch.equal(turned.read("model.embed_tokens.weight"), model.reader.read("model.embed_tokens.weight"))


def test_quantised_linears_are_read_exact_and_the_rest_in_the_dtype_it_is_stored_in(tmp_path: Path) -> None:
    model = opened("llama", tmp_path, torch.bfloat16)
    turned = rotated(model, "fold", seed=0)
    for name in turned.reader.names():
        tensor, info = turned.reader.read(name), turned.reader.info(name)
        linear = name.removesuffix(".weight") in turned.linears
        assert tensor.dtype == info.dtype == (torch.float32 if linear else torch.bfloat16)
        assert tuple(tensor.shape) == tuple(info.shape)


def test_norms_are_one_once_folded_also_where_they_store_an_offset(tmp_path: Path) -> None:
    turned = rotated(opened("llama", tmp_path), "fold", seed=0)
    norms = [name for name, _ in turned.skeleton.named_parameters() if "norm" in name]
    assert norms
    assert all(turned.read(name).eq(1).all() for name in norms)


def test_online_transforms_the_down_projections_and_drops_the_folds_that_cross_them(tmp_path: Path) -> None:
    turned = rotated(opened("llama", tmp_path), "online", seed=0)
    assert turned.online == {name for name in turned.linears if name.endswith("down_proj")}
    assert not any(isinstance(fold, UpFold) for fold in turned.adapter.folds)
    assert len(turned.adapter.folds) == len(ADAPTERS["llama"].folds) - 1


def test_the_seed_decides_the_rotation(tmp_path: Path) -> None:
    model = opened("llama", tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    first, again, other = (rotated(model, "fold", seed).read(name) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_turn_is_orthogonal_along_any_axis() -> None:
    turn = random_turn(96, seed=5)
    eye = torch.eye(96, dtype=torch.float64)
    matrix = turn.along(eye, 1)
    assert torch.allclose(matrix @ matrix.T, eye, atol=1e-12)
    x = torch.randn(7, 96, 3, dtype=torch.float64)
    assert torch.allclose(turn.along(x, 1), torch.einsum("akb,kn->anb", x, matrix), atol=1e-12)


def test_linears_that_read_one_tensor_are_given_one_transformed_tensor(tmp_path: Path) -> None:
    turned = rotated(opened("llama", tmp_path), "inputs", seed=0)
    seen: list[tuple[str, torch.Tensor]] = []
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        layer: nn.Module = turned.skeleton.get_submodule(f"model.layers.0.self_attn.{name}")
        layer.register_forward_pre_hook(lambda _m, args, name=name: seen.append((name, args[0])))
    logits(turned, tokens())
    q, k, v, o = (tensor for _, tensor in seen)
    assert q is k is v
    assert o is not q
