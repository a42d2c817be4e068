"""GPTQ and AWQ: gptqmodel's own bytes, what these formats refuse, and configs as several tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from test_formats import random_qtensor
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError
from omniq.formats.base import FORMATS
from omniq.formats.reading import read_linear, really_quantized
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

GOLDEN = Path(__file__).resolve().parent / "golden"
FILES = sorted(path for kind in ("gptq", "awq") for path in GOLDEN.glob(f"{kind}_*.safetensors"))
WRITTEN = [path for path in FILES if path.stem.startswith(("gptq_v2", "awq")) or not path.stem.endswith("asym")]
NAMES = tuple(f"model.layers.{i}.{leaf}" for i in range(2) for leaf in ("self_attn.q_proj", "mlp.up_proj"))
FOUR = LinearSpec.parse("W4A16g32")


# --- golden files of gptqmodel (tests/golden/make_gptqmodel.py)


def golden(path: Path) -> tuple[Any, LinearSpec, dict[str, Tensor], QTensor]:
    """(format, spec, packed tensors, the QTensor of the numbers that gptqmodel was given) of one file."""
    with safe_open(path, "pt") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    form, spec = FORMATS[facts["format"]], LinearSpec.parse(facts["scheme"])
    scales = tensors["scales"].T.contiguous()
    return form, spec, tensors, QTensor(tensors["integers"], scales, tensors["integer_zeros"], spec.weight)


def test_there_are_golden_files_of_every_width_and_kind() -> None:
    kinds = [f"{g}{a}" for g in ("", "g32") for a in ("", "-asym")]
    names = {f"{name}_W{b}A16{kind}" for name in ("gptq", "gptq_v2") for b in (2, 3, 4, 8) for kind in kinds}
    assert {path.stem for path in FILES} == names | {f"awq_W4A16{kind}" for kind in kinds}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_gptqmodel_packed_unpacks_to_the_numbers_it_was_given(path: Path) -> None:
    form, spec, tensors, q = golden(path)
    packed = {leaf: tensors[leaf] for leaf in form.readable(spec, tensors.__contains__)}
    unpacked = form.unpack(packed, spec, q.shape)
    assert unpacked.equal(q)
    assert torch.equal(unpacked.dequantize(), tensors["expanded"])


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_packing_those_numbers_gives_the_bytes_that_gptqmodel_wrote(path: Path) -> None:
    form, _, tensors, q = golden(path)
    packed = form.pack(q)
    for leaf, tensor in packed.items():
        assert tensor.dtype == tensors[leaf].dtype
        assert torch.equal(tensor, tensors[leaf]), leaf


def test_a_zero_point_of_0_that_gptqmodel_wrote_in_version_1_borrows_from_its_neighbour_and_is_read_back() -> None:
    form, spec, tensors, q = golden(GOLDEN / "gptq_W4A16g32-asym.safetensors")
    assert (q.zeros == 0).any()
    fields = tensors["qzeros"].unsqueeze(-1) >> torch.arange(0, 32, 4) & 15
    apart = ((fields + 1) & 15).view(q.zeros.shape[1], -1).T
    assert not torch.equal(apart, q.zeros.int())
    packed = {leaf: tensors[leaf] for leaf in form.leaves(spec)}
    assert torch.equal(form.unpack(packed, spec, q.shape).zeros, q.zeros)


def test_the_order_of_outputs_in_a_word_of_awq_is_the_published_one() -> None:
    codes = torch.arange(8, dtype=torch.uint8).view(8, 1).repeat(1, 32)
    q = QTensor(codes, torch.ones(8, 1).half(), torch.full((8, 1), 8, dtype=torch.uint8), QuantSpec(4))
    assert FORMATS["awq"].pack(q)["qweight"][0].tolist() == [0x75316420]


# --- what is refused, and what is said then


REFUSALS = [
    ("gptq", "W5A16", (64, 64), "2, 3, 4, 8 bits"),
    ("gptq", "W4A16-asym", (64, 64), "--format gptq_v2, --format awq or --format compressed-tensors"),
    ("gptq", "W8A16-asym", (64, 64), "--format gptq_v2 or --format compressed-tensors"),
    ("gptq", "W4A8", (64, 64), "activations of 8 bits; --format compressed-tensors"),
    ("gptq_v2", "W4A16g48", (64, 96), "groups of -1, 16, 32"),
    ("gptq_v2", "W3A16g16", (40, 64), "multiples of 32"),
    ("gptq_v2", "W3A16g16", (64, 80), "multiples of 32"),
    ("gptq_v2", "W4A4-clip0.9-had", (64, 64), "a transform of inputs; --format compressed-tensors"),
    ("awq", "W3A16g32", (64, 64), "4 bits only"),
    ("awq", "W4A16g256", (64, 256), "groups of -1, 16, 32, 64, 128"),
    ("awq", "W4A16g32", (12, 64), "12 is no multiple"),
    ("awq", "W4A4", (64, 64), "activations of 4 bits; --format compressed-tensors"),
]


@pytest.mark.parametrize(("name", "scheme", "shape", "words"), REFUSALS)
def test_what_a_format_cannot_say_is_refused_with_what_can(
    name: str, scheme: str, shape: tuple[int, int], words: str
) -> None:
    spec = LinearSpec.parse(scheme)
    reason = FORMATS[name].refuse(spec, shape)
    assert reason is not None
    assert words in reason
    if spec == LinearSpec(spec.weight):
        with pytest.raises(UnsupportedError, match="cannot store a weight"):
            FORMATS[name].pack(random_qtensor(spec.weight, shape))


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_scales_that_float16_does_not_hold_are_refused_and_others_keep_their_dtype(name: str) -> None:
    q = random_qtensor(FOUR.weight, (32, 64))
    with pytest.raises(UnsupportedError, match=r"64 of 64 are not.*--format compressed-tensors"):
        FORMATS[name].pack(q)
    for dtype in (torch.float16, torch.bfloat16):
        assert FORMATS[name].pack(random_qtensor(FOUR.weight, (32, 64), dtype))["scales"].dtype == dtype
    small = QTensor(q.codes, torch.full((32, 2), 2.0**-25).bfloat16(), q.zeros, q.spec)
    with pytest.raises(UnsupportedError, match="float16 holds exactly"):
        FORMATS[name].pack(small)
    exact = QTensor(q.codes, torch.full((32, 2), 0.125), q.zeros, q.spec)
    assert FORMATS[name].pack(exact)["scales"].dtype == torch.float16


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_mixed_schemes_are_refused(name: str) -> None:
    specs = {NAMES[0]: FOUR, NAMES[1]: LinearSpec.parse("W4A16g64")}
    assert "W4A16g32, W4A16g64" in FORMATS[name].refuse_mixed(specs.values(), False)
    with pytest.raises(UnsupportedError, match="W4A16g32, W4A16g64"):
        FORMATS[name].config(specs, ())


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_experts_and_linears_of_an_own_class_are_not_said_to_load_in_transformers(name: str) -> None:
    assert "transformers: no" in FORMATS[name].loaded_by(FOUR, experts=True)[0]
    assert "transformers: no" in FORMATS[name].loaded_by(FOUR, own=True)[0]
    assert ": yes" in FORMATS[name].loaded_by(FOUR)[0]


# --- damaged tensors


CHANGES = {
    "dtype": lambda t: t.to(torch.int16 if t.dtype == torch.int32 else torch.float64),
    "wider": lambda t: torch.cat([t, t[..., :1]], dim=-1),
    "nan": lambda t: torch.full_like(t, float("nan")),
    "flat": lambda t: t.reshape(-1, 1),
}
DAMAGE = [
    (name, leaf, change)
    for name in ("gptq", "awq")
    for leaf in ("qweight", "qzeros", "scales", *(("g_idx",) if name == "gptq" else ()))
    for change in CHANGES
    if change != "nan" or leaf == "scales"
]


@pytest.mark.parametrize(("name", "leaf", "change"), DAMAGE)
def test_tensors_that_do_not_fit_the_layer_are_refused_by_name(name: str, leaf: str, change: str) -> None:
    packed = FORMATS[name].pack(random_qtensor(FOUR.weight, (32, 64), torch.float16))
    with pytest.raises(ModelError, match=leaf):
        FORMATS[name].unpack(packed | {leaf: CHANGES[change](packed[leaf])}, FOUR, (32, 64))


@pytest.mark.parametrize("name", ["gptq", "gptq_v2", "awq"])
def test_a_layer_that_lacks_a_tensor_or_does_not_divide_into_groups_is_refused(name: str) -> None:
    packed = FORMATS[name].pack(random_qtensor(FOUR.weight, (32, 64), torch.float16))
    with pytest.raises(ModelError, match="qzeros"):
        FORMATS[name].unpack({k: v for k, v in packed.items() if k != "qzeros"}, FOUR, (32, 64))
    with pytest.raises(ModelError, match="not a multiple of group size 32"):
        FORMATS[name].unpack(packed, FOUR, (32, 48))


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_zero_points_that_contradict_a_symmetric_config_are_refused(name: str) -> None:
    packed = FORMATS[name].pack(random_qtensor(FOUR.weight, (32, 64), torch.float16))
    with pytest.raises(ModelError, match="qzeros has others"):
        FORMATS[name].unpack(packed | {"qzeros": packed["qzeros"] ^ 1}, FOUR, (32, 64))


def act_order(packed: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The same tensors as a tool writes them that dealt the inputs to the groups in another order."""
    order = torch.randperm(len(packed["g_idx"]), generator=torch.Generator().manual_seed(seed))
    return packed | {"g_idx": packed["g_idx"][order].contiguous()}


@pytest.mark.parametrize(("name", "scheme"), [
    ("gptq", "W2A16g32"), ("gptq", "W3A16"), ("gptq", "W4A16g32"), ("gptq", "W8A16g64"),
    ("gptq_v2", "W3A16g32-asym"), ("gptq_v2", "W4A16g32-asym"),
])  # fmt: skip
def test_inputs_in_act_order_have_the_scales_and_zero_points_of_their_own_group(name: str, scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (32, 128), torch.float16)
    packed = act_order(FORMATS[name].pack(q))
    found = FORMATS[name].unpack(packed, spec, (32, 128))
    for k, group in enumerate(packed["g_idx"].tolist()):
        levels = q.codes[:, k].double() - q.zeros[:, group].double()
        assert torch.equal(found.dequantize(torch.float64)[:, k], levels * q.scales[:, group].double())


def test_a_missing_order_is_the_plain_one_and_groups_of_other_sizes_are_refused() -> None:
    q = random_qtensor(FOUR.weight, (32, 64), torch.float16)
    packed = FORMATS["gptq"].pack(q)
    bare = {leaf: tensor for leaf, tensor in packed.items() if leaf != "g_idx"}
    assert FORMATS["gptq"].unpack(bare, FOUR, (32, 64)).equal(q)
    for place, group in ((0, 1), (0, 2), (63, -1)):
        bent = packed["g_idx"].clone()
        bent[place] = group
        with pytest.raises(ModelError, match="g_idx does not give every one of the 2 groups 32 of the 64 inputs"):
            FORMATS["gptq"].unpack(packed | {"g_idx": bent}, FOUR, (32, 64))


# --- configs


def gptqmodel_config(**changes: Any) -> dict[str, Any]:
    """A config as gptqmodel 7.6 writes it, with changes."""
    config = {"bits": 4, "checkpoint_format": "gptq", "desc_act": False, "format": "gptq", "group_size": 32}
    config |= {"lm_head": False, "meta": {"quantizer": ["gptqmodel:7.6.0"], "gptaq": None}, "method": "gptq"}
    return config | {"pack_dtype": "int32", "quant_method": "gptq", "sym": True} | changes


def test_a_config_of_gptqmodel_is_read_with_its_exceptions() -> None:
    every = dict.fromkeys(NAMES, FOUR)
    assert FORMATS["gptq"].parse(gptqmodel_config(), (*NAMES, "lm_head")) == every
    assert FORMATS["gptq_v2"].parse(gptqmodel_config(), NAMES) is None
    dynamic = {r"-:.*layers\.1\..*": {}, r"+:.*up_proj": {"bits": 8, "group_size": 64}, r".*": {"bits": 2}}
    found = FORMATS["gptq"].parse(gptqmodel_config(dynamic=dynamic), NAMES)
    assert found == {NAMES[0]: LinearSpec.parse("W2A16g32"), NAMES[1]: LinearSpec.parse("W8A16g64")}


def test_configs_of_older_tools_are_read() -> None:
    auto_gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False}
    auto_gptq |= {"static_groups": False, "sym": True, "true_sequential": True, "model_name_or_path": None}
    assert FORMATS["gptq"].parse(auto_gptq, NAMES[:1]) == {NAMES[0]: LinearSpec.parse("W4A16g128")}
    optimum = auto_gptq | {"modules_in_block_to_quantize": [["self_attn.q_proj"]], "dataset": "c4", "sym": None}
    assert FORMATS["gptq"].parse(optimum, NAMES) == dict.fromkeys(NAMES[::2], LinearSpec.parse("W4A16g128"))
    auto_awq = {"quant_method": "awq", "version": "GEMM", "w_bit": 4, "q_group_size": 64, "zero_point": True}
    assert FORMATS["awq"].parse(auto_awq, NAMES[:1]) == {NAMES[0]: LinearSpec.parse("W4A16g64-asym")}
    symmetric = auto_awq | {"zero_point": False, "modules_to_not_convert": ["lm_head", "mlp"]}
    assert FORMATS["awq"].parse(symmetric, NAMES) == dict.fromkeys(NAMES, LinearSpec.parse("W4A16g64"))
    named = auto_awq | {"modules_to_not_convert": ["model.layers.0", "up_proj"]}
    assert set(FORMATS["awq"].parse(named, NAMES)) == {NAMES[2]}


REFUSED = {
    "layout": ("gptq", {"checkpoint_format": "marlin", "format": "marlin"}, UnsupportedError, "'marlin'"),
    "two layouts": ("gptq", {"format": "gptq_v2"}, ModelError, "must be the same"),
    "bits": ("gptq", {"bits": 5}, UnsupportedError, "5 bits"),
    "bits as text": ("gptq", {"bits": "4"}, ModelError, "bits is '4'"),
    "groups": ("gptq", {"group_size": 0}, ModelError, "group_size is 0"),
    "sym": ("gptq", {"sym": 1}, ModelError, "sym is 1"),
    "words": ("gptq", {"pack_dtype": "int16"}, UnsupportedError, "int16 words"),
    "head": ("gptq", {"lm_head": True}, UnsupportedError, "lm_head is quantised"),
    "rotation": ("gptq", {"rotation": "hadamard"}, UnsupportedError, "rotation"),
    "expression": ("gptq", {"dynamic": {"-:(": {}}}, ModelError, "not valid"),
    "dynamic": ("gptq", {"dynamic": ["-:x"]}, ModelError, "expected a mapping"),
    "included": ("gptq", {"modules_in_block_to_quantize": [[1]]}, ModelError, "lists of names"),
    "other included": ("gptq", {"modules_in_block_to_quantize": 3}, ModelError, "lists of names"),
    "method": ("gptq", {"dynamic": {".*": {"method": "awq"}}}, UnsupportedError, "method"),
    "gemv": ("awq", {"version": "gemv"}, UnsupportedError, "'gemv'"),
    "awq bits": ("awq", {"bits": 3}, UnsupportedError, "3 bits"),
    "awq names": ("awq", {"modules_to_not_convert": "lm_head"}, ModelError, "list of names"),
    "awq expression": ("awq", {"modules_to_not_convert": ["("]}, ModelError, "not valid"),
    "zero point": ("awq", {"zero_point": "yes"}, ModelError, "zero_point is 'yes'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_omniq_cannot_compute_is_refused_by_its_setting(case: str) -> None:
    name, changes, error, words = REFUSED[case]
    config = gptqmodel_config() if name == "gptq" else {"quant_method": "awq", "bits": 4, "group_size": 32}
    with pytest.raises(error) as caught:
        FORMATS[name].parse(config | changes, NAMES)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["gptq", "gptq_v2"])
def test_linears_left_out_are_named_for_gptqmodel_and_for_transformers(name: str) -> None:
    linears = dict.fromkeys(NAMES, FOUR)
    assert not {"dynamic", "modules_in_block_to_quantize"} & set(FORMATS[name].config(linears, ("lm_head",)))
    both = FORMATS[name].config(linears, ("lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"))
    assert list(both["dynamic"]) == [r"-:.*model\.layers\.\d+\.mlp\.gate$"]
    assert both["modules_in_block_to_quantize"] == [["self_attn.q_proj", "mlp.up_proj"]]
    one = FORMATS[name].config(dict.fromkeys(NAMES[1:], FOUR), (NAMES[0],))
    assert list(one["dynamic"]) == [r"-:.*model\.layers\.0\.self_attn\.q_proj$"]
    assert one["modules_in_block_to_quantize"] == [list(NAMES[1:])]
    assert FORMATS[name].parse(json.loads(json.dumps(one)), NAMES) == dict.fromkeys(NAMES[1:], FOUR)
    expert = {"model.layers.0.mlp.experts.0.up_proj": FOUR}
    assert "modules_in_block_to_quantize" not in FORMATS[name].config(expert, ("model.layers.0.mlp.gate",))


class Stored(dict[str, Tensor]):
    """Tensors by name, as a checkpoint's reader gives them."""

    def read(self, name: str) -> Tensor:
        """A tensor by its name."""
        return self[name]


@pytest.mark.parametrize("name", ["gptq", "awq", "compressed-tensors"])
def test_tensors_decide_what_is_quantised_only_where_the_config_need_not_say(name: str) -> None:
    form, q = FORMATS[name], random_qtensor(FOUR.weight, (32, 64), torch.float16)
    stored = Stored({f"a.{leaf}": tensor for leaf, tensor in form.pack(q).items()})
    stored["b.weight"] = torch.zeros(32, 64)
    assert read_linear(form, stored, "a", FOUR, (32, 64)).equal(q)
    specs = {"a": FOUR, "b": FOUR}
    assert set(really_quantized(form, stored, specs)) == ({"a"} if form.dense_unsaid else {"a", "b"})


# --- auto-round


AUTO = FORMATS["auto-round"]


@pytest.mark.parametrize(
    ("packing", "scheme"), [("gptq", "W4A16g32"), ("gptq_v2", "W3A16-asym"), ("awq", "W4A16-asym")]
)
def test_auto_round_is_read_in_each_of_its_packings(packing: str, scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (32, 64), torch.float16)
    stored = {leaf: tensor for leaf, tensor in FORMATS[packing].pack(q).items() if leaf != "g_idx"}
    assert AUTO.unpack(stored, spec, q.shape).equal(q)


def test_a_config_of_auto_round_is_read_with_its_exceptions() -> None:
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True, "data_type": "int"}
    config |= {"packing_format": "auto_round:auto_gptq", "block_name_to_quantize": "model.layers"}
    extra = {NAMES[0]: {"bits": 16, "data_type": "float"}, NAMES[1]: {"bits": 8, "group_size": 64}}
    found = AUTO.parse(config | {"extra_config": extra}, (*NAMES, "lm_head"))
    assert found == {NAMES[1]: LinearSpec.parse("W8A16g64"), NAMES[2]: FOUR, NAMES[3]: FOUR}
    for change, words in (({"sym": False}, "asymmetric"), ({"bits": 5}, "5 bits"), ({"data_type": "fp8"}, "'fp8'")):
        with pytest.raises(UnsupportedError, match=words):
            AUTO.parse(config | change, NAMES)
    with pytest.raises(ModelError, match="extra_config"):
        AUTO.parse(config | {"extra_config": ["x"]}, NAMES)
