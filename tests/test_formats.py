"""Formats: what is packed unpacks bit for bit, configs read back, and plain transformers computes the same."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from omniq.checkpoint import Reader
from omniq.errors import ModelError, UnsupportedError
from omniq.formats.base import FORMATS
from omniq.formats.bitpack import pack_bits, unpack_bits, words_for
from omniq.formats.ct_config import scheme_entry
from omniq.grid import encode, fake_quantize_tokens, minmax_grid
from omniq.qtensor import QTensor
from omniq.shards import write_tensors, write_text
from omniq.spec import LinearSpec, QuantSpec

CT = FORMATS["compressed-tensors"]
BITS = range(2, 9)
SCHEMES = [f"W{b}A16{g}{a}" for b, g, a in itertools.product(BITS, ("", "g16"), ("", "-asym"))]
SHAPES = [(1, 16), (7, 48), (40, 96), (33, 80), (32, 64), (96, 160)]


def random_qtensor(
    spec: QuantSpec, shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0
) -> QTensor:
    """Codes and zero points over the whole range, scales of both signs (positive when asymmetric)."""
    draw = torch.Generator().manual_seed(seed)
    n, k = shape
    grid = (n, spec.groups(k))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    codes[0, 0], codes[-1, -1] = 0, spec.qmax
    scales = 0.01 + torch.rand(grid, generator=draw)
    if spec.symmetric:
        scales *= torch.randint(0, 2, grid, generator=draw) * 2 - 1
        zeros = torch.full(grid, spec.mid, dtype=torch.uint8)
    else:
        zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    return QTensor(codes, scales.to(dtype), zeros, spec)


# --- bit streams


def bit_stream(codes: list[int], bits: int) -> list[int]:
    """The words of a dense little-endian stream, by big-integer arithmetic."""
    stream = sum(code << (index * bits) for index, code in enumerate(codes))
    words = [stream >> (32 * index) & 0xFFFFFFFF for index in range(-(-len(codes) * bits // 32))]
    return [word - 2**32 if word >= 2**31 else word for word in words]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 64, 100])
def test_codes_become_one_dense_little_endian_bit_stream_and_back(bits: int, length: int) -> None:
    draw = torch.Generator().manual_seed(bits * 1000 + length)
    codes = torch.randint(0, 2**bits, (3, length), generator=draw, dtype=torch.uint8)
    words = pack_bits(codes, bits)
    assert words.dtype == torch.int32
    assert words.tolist() == [bit_stream(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack_bits(words, bits, length), codes)


def test_thirty_two_codes_of_three_bits_are_three_words() -> None:
    codes = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 7, *[0] * 10, 5, *[0] * 10], dtype=torch.uint8)
    # Code 10 (7) has two bits in word 0 and one in word 1; code 21 (5 = 0b101) one in word 1 and two in word 2.
    first = sum(code << (3 * i) for i, code in enumerate(codes[:10].tolist())) | 0b11 << 30
    assert pack_bits(codes, 3).tolist() == [first - 2**32, (1 | 1 << 31) - 2**32, 0b10]


@pytest.mark.parametrize("shape", [(40,), (2, 3, 40), (0, 40)])
def test_streams_run_along_the_last_dimension_of_any_shape(shape: tuple[int, ...]) -> None:
    codes = torch.randint(0, 8, shape, dtype=torch.uint8)
    words = pack_bits(codes, 3)
    assert words.shape == (*shape[:-1], words_for(40, 3))
    assert torch.equal(unpack_bits(words, 3, 40), codes)


def test_views_that_are_not_contiguous_pack_and_unpack() -> None:
    codes = torch.randint(0, 8, (40, 7), dtype=torch.uint8)
    words = pack_bits(codes.T, 3)
    assert torch.equal(words, pack_bits(codes.T.contiguous(), 3))
    assert torch.equal(unpack_bits(words.T.contiguous().T, 3, 40), codes.T)


def test_a_code_that_does_not_fit_is_refused_because_it_would_change_its_neighbour() -> None:
    with pytest.raises(ValueError, match="8, which does not fit 3 bits"):
        pack_bits(torch.tensor([8], dtype=torch.uint8), 3)


@pytest.mark.parametrize("words", [torch.zeros(2, dtype=torch.int32), torch.zeros(3)])
def test_words_of_the_wrong_number_or_dtype_are_refused(words: Tensor) -> None:
    with pytest.raises(ValueError, match="32 codes of 3 bits are 3 int32 words"):
        unpack_bits(words, 3, 32)


# --- every format


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_packed_unpacks_bit_for_bit(name: str, scheme: str, shape: tuple[int, int]) -> None:
    form, spec = FORMATS[name], LinearSpec.parse(scheme)
    if reason := form.refuse(spec, shape):
        pytest.skip(reason)
    q = random_qtensor(spec.weight, shape, form.scale_dtype(torch.float32))
    packed = form.pack(q)
    assert set(packed) == set(form.leaves(spec)) == set(form.readable(spec, packed.__contains__))
    assert form.unpack(packed, spec, shape).equal(q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_packed_survives_a_file(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    spec = LinearSpec.parse("W4A16g32" if name == "gptq" else "W4A16g32-asym")
    if dtype != FORMATS[name].scale_dtype(dtype) and dtype == torch.float32:
        pytest.skip("this format has no scales in float32")
    q = random_qtensor(spec.weight, (32, 64), dtype)
    write_tensors(tmp_path / "model.safetensors", FORMATS[name].pack(q))
    reader = Reader(tmp_path)
    again = {leaf: reader.read(leaf) for leaf in reader.names()}
    assert FORMATS[name].unpack(again, spec, (32, 64)).equal(q)


@pytest.mark.parametrize(
    "scheme", [*SCHEMES, "W4A4", "W4A8g32", "W6A6", "W4A8-actasym", "W4A4-asym", "W8A8-asym-actasym"]
)
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_config_reads_back_as_the_specs_it_was_made_from(name: str, scheme: str) -> None:
    form, spec = FORMATS[name], LinearSpec.parse(scheme)
    if reason := form.refuse(spec, (64, 96)):
        pytest.skip(reason)
    linears = {f"model.layers.{i}.{leaf}": spec for i in range(2) for leaf in ("self_attn.q_proj", "mlp.up_proj")}
    config = json.loads(json.dumps(form.config(linears, ("model.layers.0.mlp.gate",))))
    names = (*linears, "lm_head", "model.layers.0.mlp.gate")
    assert form.parse(config, names) == linears
    others = [other for other in FORMATS if other != name]
    assert all(FORMATS[other].parse(config, names) is None for other in others)


@pytest.mark.parametrize("scheme", ["W4A16", "W3A16g48-asym", "W4A4", "W2A16g64", "W8A8-actasym", "W4A8-asym"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_each_runtime_is_told_in_one_sentence(name: str, scheme: str) -> None:
    sentences = FORMATS[name].loaded_by(LinearSpec.parse(scheme))
    assert any(sentence.startswith("omniq: yes") for sentence in sentences)
    assert len(sentences) == len(FORMATS[name].loaded_by(LinearSpec.parse(scheme), experts=True, own=True))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_group_size_that_does_not_divide_is_refused_with_divisors(name: str) -> None:
    reason = FORMATS[name].refuse(LinearSpec.parse("W4A16g128"), (64, 576))
    assert reason is not None
    assert "576" in reason
    assert "64" in reason


@pytest.mark.parametrize(("scheme", "zero_words"), [("W3A16g32", 0), ("W3A16g32-asym", 4)])
def test_packed_size_is_the_bits_of_the_codes_plus_scales_and_zero_points(scheme: str, zero_words: int) -> None:
    packed = CT.pack(random_qtensor(LinearSpec.parse(scheme).weight, (40, 128), torch.bfloat16))
    sizes = {name: tensor.nbytes for name, tensor in packed.items()}
    assert sizes.pop("weight_packed") == 40 * 128 * 3 // 8
    assert sizes.pop("weight_scale") == 40 * 4 * 2
    assert sizes.pop("weight_shape") == 16
    # 40 zero points of 3 bits take 4 words, for each of 4 groups.
    assert sum(sizes.values()) == zero_words * 4 * 4


# --- damaged tensors


def damaged(change: str) -> dict[str, Tensor]:
    """A packed asymmetric (32, 64) weight with one thing wrong."""
    packed = CT.pack(random_qtensor(LinearSpec.parse("W3A16g32-asym").weight, (32, 64)))
    leaf, _, what = change.partition(" ")
    if what == "missing":
        return {name: tensor for name, tensor in packed.items() if name != leaf}
    if what == "extra":
        return packed | {leaf: torch.zeros(1)}
    changed = {
        "dtype": lambda t: t.to(torch.int16 if t.dtype == torch.int32 else torch.float64),
        "wider": lambda t: torch.cat([t, t], dim=-1),
        "nan": lambda t: t.clone().fill_(float("nan")),
        "value": lambda t: t + 1,
        "flat": lambda t: t.view(-1),
    }[what](packed[leaf])
    return packed | {leaf: changed}


@pytest.mark.parametrize(
    "change",
    [
        *(
            f"{leaf} {what}"
            for leaf in ("weight_packed", "weight_scale", "weight_zero_point")
            for what in ("missing", "dtype", "wider", "flat")
        ),
        *("weight_scale nan", "weight_shape missing", "weight_shape wider", "weight_shape value", "weight_g_idx extra"),
    ],
)
def test_tensors_that_do_not_fit_the_layer_are_refused_by_name(change: str) -> None:
    with pytest.raises(ModelError, match=change.split()[0]):
        CT.unpack(damaged(change), LinearSpec.parse("W3A16g32-asym"), (32, 64))


def test_a_config_whose_group_size_does_not_divide_the_layer_is_a_damaged_model() -> None:
    with pytest.raises(ModelError, match="group size 32"):
        CT.unpack({}, LinearSpec.parse("W4A16g32"), (8, 48))


# --- other layouts of compressed-tensors


def test_the_layout_before_the_dense_one_is_read() -> None:
    spec = LinearSpec.parse("W3A16g32-asym")
    q = random_qtensor(spec.weight, (40, 320))
    packed = CT.pack(q) | {
        "weight_packed": ten_to_a_word(q.codes),
        "weight_zero_point": ten_to_a_word(q.zeros.T.contiguous()).T.contiguous(),
    }
    assert CT.unpack(packed, spec, q.shape).equal(q)


def ten_to_a_word(codes: Tensor) -> Tensor:
    """codes (M, L) of 3 bits -> (M, ceil(L / 10)) int32, by plain integers."""
    rows = [[row[i : i + 10] for i in range(0, len(row), 10)] for row in codes.tolist()]
    words = [[sum(code << 3 * place for place, code in enumerate(word)) for word in row] for row in rows]
    return torch.tensor(words, dtype=torch.int32)


@pytest.mark.parametrize("scheme", ["W8A8", "W8A16g32-asym", "W4A4"])
def test_linears_of_plain_integers_are_read(scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (40, 96))
    tensors = {"weight": (q.codes.int() - spec.weight.mid).to(torch.int8), "weight_scale": q.scales}
    if not spec.weight.symmetric:
        tensors["weight_zero_point"] = (q.zeros.int() - spec.weight.mid).to(torch.int8)
    assert set(CT.readable(spec, tensors.__contains__)) == set(tensors)
    assert CT.unpack(tensors, spec, q.shape).equal(q)
    args = scheme_entry(spec)["weights"]
    assert CT.parse(foreign(args | {"group_size": args.get("group_size")}, {"format": "int-quantized"}), NAMES[:1])


# --- configs of others


def foreign(weights: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A config as llm-compressor writes it, with changes."""
    settings = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
    }
    settings |= {"actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {}}
    scheme = {
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": settings | (weights or {}),
    }
    config = {
        "config_groups": {"group_0": scheme | (group or {})},
        "format": "pack-quantized",
        "global_compression_ratio": None,
    }
    more = {
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.19.0",
    }
    return config | more | {"quant_method": "compressed-tensors", "quantization_status": "compressed"} | top


NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "lm_head")


def test_a_config_of_llm_compressor_is_read() -> None:
    assert CT.parse(foreign(), NAMES) == dict.fromkeys(NAMES[:3], LinearSpec.parse("W4A16g32"))
    acts = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "token", "dynamic": True, "observer": None}
    channel = foreign(
        {"strategy": "channel", "group_size": None}, {"input_activations": acts, "format": "pack-quantized"}
    )
    assert CT.parse(channel, NAMES[:1]) == {NAMES[0]: LinearSpec.parse("W4A8-actasym")}


def test_expressions_names_and_classes_are_matched_in_that_order_of_weight() -> None:
    def group(targets: list[str], bits: int) -> dict[str, Any]:
        return foreign({"num_bits": bits}, {"targets": targets})["config_groups"]["group_0"]

    groups = {"a": group(["Linear"], 4), "b": group(["re:.*mlp.*"], 3), "c": group(["model.layers.1.mlp.up_proj"], 8)}
    config = foreign(config_groups=groups, ignore=["re:lm_head$"])
    bits = {name: spec.weight.bits for name, spec in CT.parse(config, NAMES).items()}
    assert bits == {NAMES[0]: 4, NAMES[1]: 3, NAMES[2]: 8}
    assert CT.parse(foreign(ignore=["Linear"]), NAMES) == {}


@pytest.mark.parametrize("method", ["gptq", "awq", None])
def test_the_config_of_another_method_is_left_to_it(method: str | None) -> None:
    assert CT.parse(foreign(quant_method=method), NAMES) is None


REFUSED = {
    "float": (foreign({"type": "float"}), UnsupportedError, "type is 'float'"),
    "sixteen bits": (foreign({"num_bits": 16}), UnsupportedError, "num_bits is 16"),
    "bits as text": (foreign({"num_bits": "4"}), UnsupportedError, "num_bits is '4'"),
    "tensor": (foreign({"strategy": "tensor", "group_size": None}), UnsupportedError, "strategy is 'tensor'"),
    "act order": (foreign({"actorder": "group"}), UnsupportedError, "actorder is 'group'"),
    "no group size": (foreign({"group_size": None}), ModelError, "group_size None"),
    "group size zero": (foreign({"group_size": 0}), ModelError, "group_size 0"),
    "symmetric as text": (foreign({"symmetric": "no"}), ModelError, "symmetric is 'no'"),
    "no weights": (foreign(group={"weights": None}), UnsupportedError, "weights is None"),
    "targets": (foreign(group={"targets": "Linear"}), ModelError, "targets must be a list"),
    "static": (
        foreign(group={"input_activations": {"num_bits": 8, "strategy": "tensor"}}),
        UnsupportedError,
        "dynamic is False",
    ),
    "outputs": (foreign(group={"output_activations": {"num_bits": 8}}), UnsupportedError, "output_activations"),
    "group layout": (foreign(group={"format": "float-quantized"}), UnsupportedError, "float-quantized"),
    "layout": (foreign(format="float-quantized"), UnsupportedError, "float-quantized"),
    "cache": (foreign(kv_cache_scheme={"num_bits": 8}), UnsupportedError, "kv_cache_scheme"),
    "rotation": (foreign(transform_config={"config_groups": {}}), UnsupportedError, "transform_config"),
    "sparse": (foreign(sparsity_config={"format": "sparse-24"}), UnsupportedError, "sparse"),
    "status": (foreign(quantization_status="frozen"), UnsupportedError, "frozen"),
    "no groups": (foreign(config_groups={}), ModelError, "config_groups"),
    "preset": (foreign(config_groups={"W4A16": ["Linear"]}), ModelError, "config_groups"),
    "expression": (foreign(ignore=["re:("]), ModelError, "regular expression"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_omniq_cannot_compute_is_refused_by_its_setting(case: str) -> None:
    config, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        CT.parse(config, NAMES)
    assert words in str(caught.value)


def test_several_schemes_name_their_layers_and_one_names_the_class() -> None:
    one, two = LinearSpec.parse("W4A16g32"), LinearSpec.parse("W3A16g32")
    mixed = CT.config({NAMES[0]: one, NAMES[1]: two, NAMES[2]: one}, ())
    assert [group["targets"] for group in mixed["config_groups"].values()] == [[NAMES[0], NAMES[2]], [NAMES[1]]]
    assert CT.parse(mixed, NAMES) == {NAMES[0]: one, NAMES[1]: two, NAMES[2]: one}
    assert CT.config({NAMES[0]: one}, ("lm_head",))["ignore"] == ["lm_head"]
    assert CT.config({"lm_head": one}, ())["ignore"] == []


def test_mixed_schemes_with_an_asymmetric_one_are_refused_because_transformers_would_mix_them_up() -> None:
    with pytest.raises(UnsupportedError, match="W3A16-asym, W4A16"):
        CT.config({NAMES[0]: LinearSpec.parse("W4A16"), NAMES[1]: LinearSpec.parse("W3A16-asym")}, ())


# --- plain transformers


def llama() -> LlamaForCausalLM:
    """A random model of two blocks; widths that fill the last word of a row only partly."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 20, "vocab_size": 50}
    config = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **sizes)
    return LlamaForCausalLM(config).eval()


def write_quantised(folder: Path, model: nn.Module, spec: LinearSpec, keep: tuple[str, ...] = ()) -> nn.Module:
    """Writes `model` with its linears packed, and returns a copy that computes with the expanded weights."""
    computed, state = copy.deepcopy(model), dict(model.state_dict())
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in ("lm_head", *keep)
    ]
    for name in names:
        linear = computed.get_submodule(name)
        weight = state.pop(f"{name}.weight")
        q = encode(weight, *minmax_grid(weight, spec.weight, weight.dtype), spec.weight, weight.dtype)
        state |= {f"{name}.{leaf}": tensor for leaf, tensor in CT.pack(q).items()}
        linear.weight.data = q.dequantize(weight.dtype)
        linear.register_forward_pre_hook(lambda _, inputs: (fake_quantize_tokens(inputs[0], spec.input),))
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    config["quantization_config"] = CT.config(dict.fromkeys(names, spec), keep)
    write_text(folder / "config.json", json.dumps(config))
    write_tensors(folder / "model.safetensors", state)
    return computed


LOADED = [
    "W4A16g16",
    "W3A16",
    "W2A16g16",
    "W8A16",
    "W6A16",
    "W5A16",
    "W7A16g16",
    "W4A16-asym",
    "W3A16g16-asym",
    "W8A16-asym",
]
LOADED_ACTS = ["W4A4", "W4A8g16", "W6A6", "W3A8", "W4A8-actasym", "W4A4-actasym", "W8A8"]


@pytest.mark.parametrize("scheme", [*LOADED, *LOADED_ACTS])
def test_plain_transformers_gives_the_logits_of_the_quantised_model(scheme: str, tmp_path: Path) -> None:
    computed = write_quantised(tmp_path, llama(), LinearSpec.parse(scheme))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (loaded(tokens).logits - computed(tokens).logits).abs().max()
    assert difference <= 1e-5


def test_plain_transformers_leaves_the_ignored_layers_in_floating_point(tmp_path: Path) -> None:
    model = llama()
    keep = ("model.layers.1.mlp.down_proj",)
    computed = write_quantised(tmp_path, model, LinearSpec.parse("W4A16"), keep)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(loaded.get_submodule(keep[0]).weight, model.get_submodule(keep[0]).weight)
    tokens = torch.arange(10).view(1, 10)
    with torch.no_grad():
        assert (loaded(tokens).logits - computed(tokens).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4A16-asym"])
def test_plain_transformers_expands_bfloat16_scales_to_the_same_weights(scheme: str, tmp_path: Path) -> None:
    computed = write_quantised(tmp_path, llama().to(torch.bfloat16), LinearSpec.parse(scheme))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        loaded(torch.arange(4).view(1, 4))
    for name, module in computed.named_modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(loaded.get_submodule(name).weight, module.weight), name


def test_plain_transformers_refuses_rather_than_dropping_the_activations_of_asymmetric_weights(tmp_path: Path) -> None:
    spec = LinearSpec.parse("W4A4-asym")
    write_quantised(tmp_path, llama(), spec)
    assert any(sentence.startswith("transformers: no") for sentence in CT.loaded_by(spec))
    with pytest.raises(RuntimeError, match="mismatched"):
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
