"""Architecture tables: every name in them exists in the model they describe, and says what the model does."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

import pytest
import torch
from tiny import ARCHITECTURES, UNKNOWN, VARIANTS, settings_of, tiny_model, tokens
from torch import Tensor, nn

from omniq.experts import unfuse
from omniq.models.adapter import ADAPTERS, Adapter, Fold, NormFold, QueryKeyFold, UpFold, ValueFold, adapter_for
from omniq.models.names import spellings, stored_names

KNOWN = [*ARCHITECTURES, *VARIANTS]


@cache
def opened(name: str) -> tuple[nn.Module, Adapter]:
    """(model with its experts apart, its table)."""
    config, model = tiny_model(name)
    unfuse(model)
    return model, adapter_for(config.model_type, config.to_dict())


def names_of(fold: Fold) -> Iterator[str]:
    """Every module name or pattern in a fold."""
    if isinstance(fold, NormFold):
        yield from (fold.norm, *fold.linears)
    elif isinstance(fold, QueryKeyFold):
        yield from (fold.q.name, fold.k.name)
    elif isinstance(fold, ValueFold):
        yield from (fold.v.name, fold.o)
    else:
        yield from (fold.up.name, fold.down)


def weights(block: nn.Module, pattern: str) -> list[str]:
    """Modules of a block that have a weight and match a pattern."""
    found = (name.removesuffix(".weight") for name, _ in block.named_parameters() if name.endswith(".weight"))
    return [name for name in found if fnmatchcase(name, pattern)]


def test_every_table_is_exercised_by_a_tiny_model() -> None:
    served = [opened(name)[1] for name in KNOWN]
    assert [name for name, table in ADAPTERS.items() if table not in served] == []


@pytest.mark.parametrize("name", KNOWN)
def test_the_table_names_the_list_of_decoder_blocks(name: str) -> None:
    model, table = opened(name)
    assert len(model.get_submodule(table.blocks)) == model.config.num_hidden_layers


@pytest.mark.parametrize("name", KNOWN)
def test_every_name_of_a_table_exists_in_every_block(name: str) -> None:
    model, table = opened(name)
    for block in model.get_submodule(table.blocks):
        for fold in table.folds:
            assert [pattern for pattern in names_of(fold) if not weights(block, pattern)] == []


@pytest.mark.parametrize("name", KNOWN)
def test_no_module_is_named_twice_by_one_fold(name: str) -> None:
    model, table = opened(name)
    block = model.get_submodule(table.blocks)[0]
    for fold in (fold for fold in table.folds if isinstance(fold, NormFold)):
        readers = [found for pattern in fold.linears for found in weights(block, pattern)]
        assert len(readers) == len(set(readers))


def readers_of(block: nn.Module, norm: str, run) -> set[str]:
    """Modules with a matrix that receive the norm's output, found by following the tensor itself."""
    outputs: list[Tensor] = []
    seen: set[str] = set()

    def kept(_module: nn.Module, _args: object, output: Tensor) -> None:
        outputs.append(output)

    def compared(name: str):
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = outputs[-1].flatten(0, -2) if outputs else torch.empty(0, 0)
            given = args[0].flatten(0, -2)
            if given.shape[-1] == rows.shape[-1] and all(bool((rows == row).all(-1).any()) for row in given[:3]):
                seen.add(name)

        return hook

    matrices = [n for n, m in block.named_modules() if getattr(m, "weight", None) is not None and m.weight.dim() == 2]
    handles = [block.get_submodule(norm).register_forward_hook(kept)]
    handles += [block.get_submodule(n).register_forward_pre_hook(compared(n)) for n in matrices]
    run()
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize("name", KNOWN)
def test_a_norm_fold_lists_exactly_the_modules_that_read_the_norm(name: str) -> None:
    model, table = opened(name)
    block = model.get_submodule(table.blocks)[0]
    for fold in (fold for fold in table.folds if isinstance(fold, NormFold)):
        listed = {found for pattern in fold.linears for found in weights(block, pattern)}
        reached = readers_of(block, fold.norm, lambda: model(tokens()))
        # An expert that no token chose reads nothing in this run.
        assert reached <= listed
        assert {n for n in listed - reached if ".experts." not in n} == set()


@torch.no_grad()
@pytest.mark.parametrize("name", KNOWN)
def test_a_norm_scales_by_its_weight_plus_the_tables_offset(name: str) -> None:
    model, table = opened(name)
    block = model.get_submodule(table.blocks)[0]
    for fold in (fold for fold in table.folds if isinstance(fold, NormFold)):
        norm = block.get_submodule(fold.norm)
        x = torch.randn(3, norm.weight.shape[0])
        kept, doubled = norm.weight.clone(), (norm.weight + table.norm_offset) * 2 - table.norm_offset
        bias = getattr(norm, "bias", None)
        base = norm(x) - (0 if bias is None else bias)
        norm.weight.copy_(doubled)
        scaled = norm(x) - (0 if bias is None else bias)
        norm.weight.copy_(kept)
        torch.testing.assert_close(scaled, 2 * base)


@pytest.mark.parametrize("name", KNOWN)
def test_the_up_and_down_sides_of_a_fold_pair_off(name: str) -> None:
    model, table = opened(name)
    for block in model.get_submodule(table.blocks):
        for fold in (fold for fold in table.folds if isinstance(fold, UpFold)):
            ups, downs = weights(block, fold.up.name), weights(block, fold.down)
            assert [up.rpartition(".")[0] for up in ups] == [down.rpartition(".")[0] for down in downs]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_architecture_without_a_table_has_none(name: str) -> None:
    config, _ = tiny_model(name)
    assert adapter_for(config.model_type, config.to_dict()) is None


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"activation_function": "silu"}),
        ("phi", {"qk_layernorm": True}),
        ("falcon", {"alibi": True}),
    ],
)
def test_a_block_of_another_kind_is_not_served(kind: str, change: dict) -> None:
    config, _ = tiny_model(kind)
    settings = config.to_dict()
    assert adapter_for(kind, settings) is not None
    assert adapter_for(kind, {**settings, **change}) is None


def test_tables_of_one_model_type_exclude_each_other() -> None:
    for name in KNOWN:
        settings = tiny_model(name)[0].to_dict()
        kind = settings_of(name)[0]
        assert len([table for _, table in ADAPTERS.items() if table.serves(kind, settings)]) == 1


@pytest.mark.parametrize(
    ("param", "stored"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.layers.1.mlp.gate.weight", "model.layers.1.block_sparse_moe.gate.weight"),
        ("model.layers.1.mlp.experts.3.gate_proj.weight", "model.layers.1.block_sparse_moe.experts.3.w1.weight"),
        ("model.layers.1.mlp.experts.3.down_proj.weight", "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
        ("model.layers.1.mlp.experts.3.up_proj.weight", "model.layers.1.block_sparse_moe.experts.3.w3.weight"),
        ("lm_head.weight", "embed_out.weight"),
    ],
)
def test_a_parameter_is_found_under_the_names_checkpoints_use(param: str, stored: str) -> None:
    assert stored_names([param], {stored, "other.weight"}, "model") == ({param: stored}, [])


def test_a_parameter_that_is_not_stored_is_reported_missing() -> None:
    assert stored_names(["model.norm.weight"], {"model.norm.bias"}, "model") == ({}, ["model.norm.weight"])


def test_the_name_in_memory_is_tried_first() -> None:
    assert next(spellings("model.layers.0.mlp.gate.weight", "model")) == "model.layers.0.mlp.gate.weight"
