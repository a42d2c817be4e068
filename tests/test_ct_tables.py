"""Embedding table and head in compressed-tensors: two layouts, the config group that says so, and who reads which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.base import FORMATS, StoredTable
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec, TableSpec

CT = FORMATS["compressed-tensors"]
NAMES = ("model.embed_tokens", "lm_head")
PLAIN, PACKED = "int-quantized", "pack-quantized"


def random_table(spec: QuantSpec, rows: int = 40, columns: int = 96) -> QTensor:
    draw = torch.Generator().manual_seed(0)
    grid = (rows, spec.groups(columns))
    codes = torch.randint(0, spec.qmax + 1, (rows, columns), generator=draw, dtype=torch.uint8)
    codes[0, 0], codes[0, 1] = 0, spec.qmax
    return QTensor(codes, torch.randn(grid, generator=draw), torch.full(grid, spec.mid, dtype=torch.uint8), spec)


def config_for(scheme: str, table: TableSpec, expand: bool = False) -> dict[str, Any]:
    linears = {"model.layers.0.mlp.up_proj": LinearSpec.parse(scheme)}
    return CT.tables.config(CT.config(linears, ("lm_head",), expand), linears, table, NAMES)


@pytest.mark.parametrize("layout", [PLAIN, PACKED])
@pytest.mark.parametrize("group", [32, -1])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_reads_back_bit_for_bit(bits: int, group: int, layout: str) -> None:
    q = random_table(QuantSpec(bits, group))
    place = StoredTable("t", LinearSpec(q.spec), layout)
    tensors = CT.tables.pack(q, place)
    assert tuple(tensors) == CT.tables.leaves(place)
    assert CT.tables.unpack(tensors, place, q.shape).equal(q)


def test_the_plain_layout_is_signed_integers_times_scales() -> None:
    q = random_table(QuantSpec(8, 32))
    stored = CT.tables.pack(q, StoredTable("t", LinearSpec(q.spec), PLAIN))
    assert stored["weight"].dtype == torch.int8
    expected = stored["weight"].double() * stored["weight_scale"].double().repeat_interleave(32, dim=1)
    torch.testing.assert_close(q.dequantize(torch.float64), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scheme", "bits", "expand", "layout", "expanded"),
    [
        ("W4A16g32", 8, False, PLAIN, False),
        ("W4A8g32", 8, False, PLAIN, False),
        ("W4A16g32", 4, False, PACKED, True),
        ("W8A16g32", 8, False, PLAIN, False),
        ("W8A8g32", 8, False, PLAIN, False),
        ("W3A16g32", 4, False, PACKED, False),
        ("W2A16g32-asym", 8, False, PLAIN, True),
        ("W4A16g32", 4, True, PACKED, True),
    ],
)
def test_a_config_says_how_its_tables_lie(scheme: str, bits: int, expand: bool, layout: str, expanded: bool) -> None:
    table = TableSpec(QuantSpec(bits, 32), tied=False)
    config = config_for(scheme, table, expand)
    found = CT.tables.parse(config, *NAMES)
    assert found == {name: StoredTable(name, table.linear, layout) for name in NAMES}
    assert config.get("dequantize", False) is expanded
    linear = "model.layers.0.mlp.up_proj"
    assert CT.parse(config, (linear,)) == {linear: LinearSpec.parse(scheme)}


def test_a_head_that_is_the_embedding_is_no_table_of_its_own() -> None:
    config = config_for("W4A16g32", TableSpec(QuantSpec(8, 32), tied=True))
    assert set(CT.tables.parse(config, NAMES[0], None)) == {NAMES[0]}


def test_without_a_group_of_its_own_no_table_is_quantised() -> None:
    config = CT.config({"model.layers.0.mlp.up_proj": LinearSpec.parse("W4A16g32")}, ())
    assert CT.tables.parse(config, *NAMES) == {}
    assert CT.tables.parse({"quant_method": "other"}, *NAMES) == {}


def test_a_group_for_the_class_of_embeddings_is_read() -> None:
    config = config_for("W4A16g32", TableSpec(QuantSpec(8, 32), tied=False))
    config["config_groups"]["group_1"]["targets"] = ["Embedding"]
    config["ignore"] = ["lm_head"]
    assert set(CT.tables.parse(config, *NAMES)) == {NAMES[0]}


def test_tables_with_zero_points_are_refused() -> None:
    config = config_for("W4A16g32", TableSpec(QuantSpec(8, 32), tied=False))
    config["config_groups"]["group_1"]["weights"]["symmetric"] = False
    with pytest.raises(UnsupportedError, match="zero points"):
        CT.tables.parse(config, *NAMES)


DAMAGE: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "is torch.int16": lambda t: t | {"weight": t["weight"].to(torch.int16)},
    "needs torch.int8": lambda t: t | {"weight": t["weight"][:, 1:]},
    "is torch.float64": lambda t: t | {"weight_scale": t["weight_scale"].double()},
    "finite": lambda t: t | {"weight_scale": t["weight_scale"].fill_(float("nan"))},
    "beyond 4 bits": lambda t: t | {"weight": t["weight"].clone().fill_(8)},
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_table_is_refused_by_name(words: str) -> None:
    q = random_table(QuantSpec(4, 32))
    place = StoredTable("model.embed_tokens", LinearSpec(q.spec), PLAIN)
    with pytest.raises(ModelError, match=f"model.embed_tokens.*{words}"):
        CT.tables.unpack(DAMAGE[words](CT.tables.pack(q, place)), place, q.shape)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scheme", ["W4A16g32", "W3A16", "W4A4", "W2A16g32-asym"])
def test_each_runtime_is_told_in_one_sentence(scheme: str, bits: int, tied: bool) -> None:
    sentences = CT.tables.loaded_by(LinearSpec.parse(scheme), TableSpec(QuantSpec(bits, 32), tied), False)
    assert [sentence.split(" ")[0].rstrip(":") for sentence in sentences] == ["transformers", "vLLM", "SGLang", "omniq"]
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)
    readable = (bits == 8 and "asym" not in scheme) or (bits, scheme) == (4, "W4A16g32")
    assert (": yes" in sentences[0]) is readable


def test_only_omniq_loads_tables_beside_linears_that_transform_their_inputs() -> None:
    sentences = CT.tables.loaded_by(LinearSpec.parse("W4A4-had"), TableSpec(QuantSpec(8, 32), True), False)
    assert [": yes" in sentence for sentence in sentences] == [False, True]
