"""GGUF: integers in llama.cpp's blocks, exactly; its names, rows and tokens; what it cannot say; what reads back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from quantised import Made, maker
from tiny import ARCHITECTURES as TINY
from tiny import TEXT, tokens
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

gguf = pytest.importorskip("gguf", reason="reading GGUF files back needs the package gguf")

from omniq.cli.app import app  # noqa: E402
from omniq.errors import OutputError, UnsupportedError, VerificationError  # noqa: E402
from omniq.exporting.origin import Origin  # noqa: E402
from omniq.gguf.architectures import ARCHITECTURES, FULL, SLIDING, unsaid  # noqa: E402
from omniq.gguf.blocks import BLOCKS, Q8_0, block_for, encode, refusal  # noqa: E402
from omniq.gguf.metadata import rope_factors, sizes  # noqa: E402
from omniq.gguf.pretokenizers import PRETOKENIZERS  # noqa: E402
from omniq.gguf.reading import check_gguf  # noqa: E402
from omniq.gguf.saying import loaders, nbytes, why_not  # noqa: E402
from omniq.gguf.tensors import row_order  # noqa: E402
from omniq.gguf.vocabulary import vocabulary  # noqa: E402
from omniq.gguf.writing import write_gguf  # noqa: E402
from omniq.hf import load_tokenizer  # noqa: E402
from omniq.qtensor import QTensor  # noqa: E402
from omniq.spec import LinearSpec, QuantSpec  # noqa: E402

COLUMNS = 512
GROUPS = (32, 64, 256, -1)
SCALES = (torch.bfloat16, torch.float16)
GRIDS = [
    pytest.param(QuantSpec(bits, group, symmetric), dtype, id=f"{bits}g{group}{'' if symmetric else 'a'}-{dtype}"[:20])
    for bits in range(2, 9)
    for group in GROUPS
    for symmetric in (True, False)
    for dtype in SCALES
    if symmetric or bits < 8
]
NEEDS_LLAMA = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="running a GGUF file needs llama-cpp-python")
CHANGES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": [SLIDING, SLIDING]},
    "qwen2_moe": {"vocab_size": 330, "shared_expert_intermediate_size": 64},
    "qwen2": {"vocab_size": 330},
    "qwen3": {"head_dim": 128},
}
"""Settings of tiny models that the readers take for granted: transformers adds a token to a tokenizer of Qwen 2, and
reads no size of a head for Qwen 3."""
PAGE = (
    f"{TEXT}\n\n  Two  spaces, a\ttab,\r\nI'll we've DON'T 12345 3.14 naïve Ünïcödé 漢字かな 한국어 🙂 <s> [PAD3] x²½\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny model quantised to nearest."""
    return maker(tmp_path_factory.mktemp("made"), CHANGES)


def random_q(spec: QuantSpec, dtype: torch.dtype, rows: int = 24) -> QTensor:
    """Random codes and zero points, scales (both signs) that float16 holds."""
    generator = torch.Generator().manual_seed(spec.bits)
    shape, grid = (rows, COLUMNS), (rows, spec.groups(COLUMNS))
    codes = torch.randint(0, 2**spec.bits, shape, generator=generator, dtype=torch.uint8)
    zeros = torch.randint(0, 2**spec.bits, grid, generator=generator, dtype=torch.uint8)
    scales = 0.01 + torch.rand(grid, generator=generator)
    signs = torch.randint(0, 2, grid, generator=generator) * 2 - 1
    return QTensor(
        codes, (scales * signs).to(dtype), torch.full_like(zeros, spec.mid) if spec.symmetric else zeros, spec
    )


def multiplied(q: QTensor) -> Tensor:
    """(q - z) * s in float64."""
    n, k = q.shape
    steps = q.codes.double().view(n, q.scales.shape[1], -1) - q.zeros.double().unsqueeze(-1)
    return (steps * q.scales.double().unsqueeze(-1)).view(n, k)


def decoded(raw: Tensor, name: str) -> Tensor:
    """Blocks as the gguf package reads them."""
    return torch.from_numpy(gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[name])).double()


def written(folder: Path, path: Path) -> Path:
    write_gguf(Origin(folder), path)
    return path


def keys(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# Blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "dtype"), GRIDS)
def test_every_weight_is_the_same_number_in_a_block(spec: QuantSpec, dtype: torch.dtype) -> None:
    q = random_q(spec, dtype)
    block = block_for(spec, COLUMNS, dtype)
    raw = encode(q, block, "w", "fix")
    assert raw.shape == (len(q.codes), COLUMNS // block.columns * block.nbytes)
    assert torch.equal(decoded(raw, block.name), multiplied(q))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_has_the_size_that_the_gguf_package_gives_it_and_serves_some_grid(block) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[block.name]] == (block.columns, block.nbytes)
    assert block.name in {block_for(grid.values[0], COLUMNS, grid.values[1]).name for grid in GRIDS}


@pytest.mark.parametrize("zero", range(16))
def test_every_zero_point_of_4_bits_beside_a_bfloat16_scale_is_exact_at_5_bits_per_weight(zero: int) -> None:
    spec = QuantSpec(4, 32, False)
    # 255 / 256 has all the significant bits that bfloat16 has.
    scales = torch.full((1, COLUMNS // 32), 255 / 256, dtype=torch.bfloat16)
    q = replace(random_q(spec, torch.bfloat16, 1), scales=scales, zeros=torch.full(scales.shape, zero).byte())
    block = block_for(spec, COLUMNS, torch.bfloat16)
    assert block.bits_per_weight == 5
    assert torch.equal(decoded(encode(q, block, "w", "fix"), block.name), multiplied(q))


@pytest.mark.parametrize("scale", [1 + 2.0**-12, 1e-9, 1e6])
def test_a_scale_that_float16_does_not_hold_is_refused_with_the_fix(scale: float) -> None:
    q = random_q(QuantSpec(4, 32), torch.float16)
    q = replace(q, scales=q.scales.float())
    q.scales[3, 2] = scale
    with pytest.raises(UnsupportedError, match=r"blk\.0\.x: .*float16, and 1 of .*; do this"):
        encode(q, block_for(q.spec, COLUMNS, torch.float32), "blk.0.x", "do this")


def test_where_a_block_is_all_zero_its_scale_does_not_matter() -> None:
    q = random_q(QuantSpec(8, 32), torch.float16)
    q = replace(q, scales=q.scales.float())
    q.codes[1, :32], q.scales[1, 0] = q.spec.mid, 1e-30
    assert torch.equal(decoded(encode(q, Q8_0, "w", "fix"), "Q8_0"), multiplied(q))


@pytest.mark.parametrize(
    ("spec", "columns", "words"),
    [
        (QuantSpec(4, 16), 64, "groups of 16"),
        (QuantSpec(4, 48), 96, "groups of 48"),
        (QuantSpec(4, -1), 100, "whole channels of 100 columns"),
        (QuantSpec(4, 128), 96, "not a multiple of group size 128"),
        (QuantSpec(8, 32, False), 64, "no block of 8 bits with a zero point"),
    ],
)
def test_a_grid_that_no_block_holds_is_refused_with_the_reason(spec: QuantSpec, columns: int, words: str) -> None:
    assert words in refusal(spec, columns)


# Whole files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme", "options"),
    [
        *((name, "W4A16g32", {}) for name, known in ARCHITECTURES.items() if not known.experts),
        ("llama", "W4A16g32-asym", {}),
        ("llama", "W4A16g32-asym", {"format": "awq"}),
        ("llama", "W8A16", {"format": "gptq"}),
        ("llama", "W2A16g32", {}),
        ("llama", "W4A16g32", {"embed_bits": 8}),
        ("gemma3_text", "W3A16g32", {"embed_bits": 4}),
    ],
)
def test_transformers_own_reader_makes_the_same_weights_of_the_file(
    name: str, scheme: str, options: dict[str, Any], made: Made, tmp_path: Path
) -> None:
    origin = Origin(made(name, scheme, **options))
    write_gguf(origin, tmp_path / "m.gguf")
    check_gguf(origin, tmp_path / "m.gguf")
    model = read_by_transformers(tmp_path / "m.gguf")
    for layer in origin.layers:
        assert torch.equal(model.get_submodule(layer.name).weight.double(), multiplied(origin.weight(layer))), layer
    table = origin.tables().embedding
    wanted = origin.model.read("model.embed_tokens.weight").double() if table is None else multiplied(table)
    assert torch.equal(model.get_input_embeddings().weight.double(), wanted)
    norm = model.model.norm.weight
    assert torch.allclose(norm, origin.model.read("model.norm.weight").float(), rtol=0, atol=2**-22)


@pytest.mark.parametrize("name", [name for name, known in ARCHITECTURES.items() if known.experts])
def test_the_experts_of_a_layer_lie_in_one_tensor_in_turn(name: str, made: Made, tmp_path: Path) -> None:
    origin = Origin(made(name))
    write_gguf(origin, tmp_path / "m.gguf")
    check_gguf(origin, tmp_path / "m.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    experts = [layer for layer in origin.layers if ".experts." in layer.name]
    assert len(experts) == 2 * 4 * 3
    for layer in experts:
        _, block, _, _, number, kind = layer.name.removeprefix("model.").split(".")
        tensor = found[f"blk.{block}.ffn_{kind.removesuffix('_proj')}_exps.weight"]
        weight = torch.from_numpy(gguf.dequantize(tensor.data[int(number)], tensor.tensor_type)).double()
        assert torch.equal(weight, multiplied(origin.weight(layer))), layer.name
    (said,) = (sentence for sentence in loaders(origin) if sentence.startswith("transformers"))
    assert said.startswith("transformers: no")


def test_a_changed_expert_is_found_out(made: Made, tmp_path: Path) -> None:
    path = written(made("qwen3_moe"), tmp_path / "m.gguf")
    tensor = next(one for one in gguf.GGUFReader(path).tensors if one.name == "blk.1.ffn_up_exps.weight")
    raw = bytearray(path.read_bytes())
    raw[tensor.data_offset + tensor.n_bytes - 1] ^= 0x10
    path.write_bytes(raw)
    with pytest.raises(VerificationError, match=r"blk\.1\.ffn_up_exps\.weight"):
        check_gguf(Origin(made("qwen3_moe")), path)


def test_experts_of_different_bits_are_refused(made: Made) -> None:
    origin = Origin(made("qwen3_moe"))
    name = "model.layers.1.mlp.experts.2.up_proj"
    eight = LinearSpec.parse("W8A16g32")
    origin.layers = tuple(replace(layer, spec=eight) if layer.name == name else layer for layer in origin.layers)
    assert "those of blk.1.ffn_up_exps.weight are Q4_0, Q8_0" in why_not(origin)


def read_by_transformers(path: Path) -> nn.Module:
    packing = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": packing(dequantize=True)} if packing else {}
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True, **dense
    ).eval()


@NEEDS_LLAMA
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_llama_cpp_computes_what_transformers_computes_of_the_same_weights(
    name: str, made: Made, tmp_path: Path
) -> None:
    from llama_cpp import Llama

    folder = made(name)
    llama = Llama(str(written(folder, tmp_path / "m.gguf")), n_ctx=32, logits_all=True, verbose=False, n_threads=1)
    ids = tokens(1, 8)
    llama.eval(ids[0].tolist())
    found = torch.from_numpy(llama.scores[:8].copy()).double()
    with torch.no_grad():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0].double()
    # llama.cpp rounds inputs of linears to 8 bits and keys and values to float16; other rows or norms give about 1.
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_a_file_with_other_numbers_in_it_is_found_out(made: Made, tmp_path: Path) -> None:
    folder = made()
    path = written(folder, tmp_path / "m.gguf")
    check_gguf(Origin(folder), path)
    tensor = next(one for one in gguf.GGUFReader(path).tensors if one.name == "blk.1.ffn_up.weight")
    raw = bytearray(path.read_bytes())
    raw[tensor.data_offset + tensor.n_bytes - 1] ^= 0x10
    path.write_bytes(raw)
    with pytest.raises(VerificationError, match=r"blk\.1\.ffn_up\.weight"):
        check_gguf(Origin(folder), path)


def test_the_size_told_before_is_that_of_the_tensors_in_the_file(made: Made, tmp_path: Path) -> None:
    origin = Origin(made(scheme="W4A16g32-asym"))
    write_gguf(origin, tmp_path / "m.gguf")
    assert nbytes(origin) == sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors)


@pytest.mark.parametrize(("scheme", "word"), [("W2A16g32", "Q4_0 blocks of 4.5 bits"), ("W4A16g32", None)])
def test_a_grid_that_takes_far_more_room_than_it_needs_is_told(
    scheme: str, word: str | None, made: Made, tmp_path: Path
) -> None:
    notes = write_gguf(Origin(made(scheme=scheme)), tmp_path / "m.gguf")
    assert any(word in note for note in notes) if word else notes == ()


def test_the_file_says_how_long_a_window_of_the_model_is_where_llama_cpp_has_none(made: Made, tmp_path: Path) -> None:
    (note,) = write_gguf(Origin(made("mistral")), tmp_path / "m.gguf")
    assert "8 tokens" in note
    assert keys(tmp_path / "m.gguf")["llama.context_length"] == 8


def test_the_command_writes_the_file_and_json_about_it(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = CliRunner().invoke(app, ["export", str(made()), "--format", "gguf", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["verified"] is True
    assert said["size_after"] == out.stat().st_size
    assert keys(out)["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0


# What GGUF cannot say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme", "options", "word"),
    [
        ("opt", "W4A16g32", {}, "not opt"),
        ("llama", "W4A8g32", {"attention": False}, "says nothing of what enters a layer"),
        ("llama", "W4A8g32", {}, "inside attention"),
        ("llama", "W8A16g32-asym", {}, "symmetric ones fit"),
        ("llama", "W4A16g16", {}, "groups of 16"),
    ],
)
def test_what_the_file_could_not_say_is_refused_before_a_weight_is_read(
    name: str, scheme: str, options: dict[str, Any], word: str, made: Made
) -> None:
    assert word in why_not(Origin(made(name, scheme, **options)))


def test_scales_in_float32_are_refused_with_the_layer_and_the_fix(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"blk\.0\.attn_q\.weight: .*float16.*; quantise .* --format gptq"):
        write_gguf(Origin(made(dtype=torch.float32)), tmp_path / "m.gguf")


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(made: Made, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/m\.gguf.*No such file"):
        write_gguf(Origin(made()), tmp_path / "none" / "m.gguf")


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_before_a_weight_is_read(
    made: Made, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made(), tmp_path / "copy"))
    values = json.loads((folder / "tokenizer.json").read_text())
    values["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "knows no name of llama.cpp" in why_not(Origin(folder))


def config(name: str, **changes: Any) -> dict[str, Any]:
    settings = {**TINY[name], **CHANGES.get(name, {}), **changes}
    return transformers.AutoConfig.for_model(name, **settings).to_dict()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plain_model_of_every_architecture_in_the_table_can_be_said(name: str) -> None:
    assert unsaid(config(name)) is None


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("llama", {"hidden_act": "gelu"}, "activation is 'gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
        ("gemma3_text", {"layer_types": [SLIDING, FULL]}, "the last of 6 layers"),
        ("gemma3_text", {"query_pre_attn_scalar": 64}, "llama.cpp computes with 16"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping is None"),
        ("gemma2", {"layer_types": [FULL, SLIDING]}, "the last of 2 layers"),
        ("gemma2", {"query_pre_attn_scalar": 64}, "llama.cpp computes with 16"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob is True"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "no experts"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "no experts"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_otherwise_is_refused(
    name: str, changes: dict[str, Any], word: str
) -> None:
    assert word in unsaid(config(name, **changes))


# Metadata and rows -------------------------------------------------------------------------------------------------


def test_rotary_factors_of_llama_3_are_the_ratio_of_transformers_own_frequencies() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    values = config("llama", head_dim=64, rope_parameters={**rope, "original_max_position_embeddings": 512})
    made_config = transformers.LlamaConfig.from_dict(values)
    scaled = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(made_config).inv_freq.double()
    plain = 5e5 ** -(torch.arange(0, 64, 2).double() / 64)
    found = rope_factors(values, ARCHITECTURES["llama"]).double()
    assert len(found.unique()) > 3
    assert torch.allclose(found, plain / scaled, rtol=1e-5)


def test_rows_of_llama_q_and_k_take_the_two_halves_of_a_head_in_turn() -> None:
    values = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    known = ARCHITECTURES["llama"]
    assert row_order("model.layers.0.self_attn.q_proj.weight", values, known).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert row_order("model.layers.0.self_attn.k_proj.bias", values, known).tolist() == [0, 2, 1, 3]
    assert row_order("model.layers.0.self_attn.v_proj.weight", values, known) is None
    assert row_order("model.layers.0.self_attn.q_proj.weight", values, ARCHITECTURES["qwen3"]) is None


def test_the_sizes_of_a_model_stand_under_the_name_of_its_architecture() -> None:
    found = sizes(config("gemma3_text"), ARCHITECTURES["gemma3_text"])
    assert found["gemma3.attention.sliding_window"] == 8
    assert found["gemma3.rope.freq_base"] == 1e6
    assert found["gemma3.attention.key_length"] == 16


# Vocabulary --------------------------------------------------------------------------------------------------------


def byte_level(steps: tuple, whole_words: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE that cuts its text by `steps` of the table."""
    parts = []
    for step in steps:
        if step == ("digits",):
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif step[0] == "split":
            parts.append(pre_tokenizers.Split(Regex(step[1]), "isolated"))
        elif step == ("bytes",):
            parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=("words",) in steps))
    raw = Tokenizer(models.BPE(ignore_merges=whole_words))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [PAGE] * 2,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def pieces(prefix: bool) -> PreTrainedTokenizerFast:
    """A BPE of characters, spaces as a sign, that falls back to bytes and puts BOS first."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, limit_alphabet=60, show_progress=False)
    raw.train_from_iterator(TEXT.split(". "), trainer)
    values = json.loads(raw.to_str())
    values["added_tokens"] = values["added_tokens"][:3]
    raw = Tokenizer.from_str(json.dumps(values))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    **{name: (lambda key=key: byte_level(*key)) for key, name in PRETOKENIZERS.items()},
    "pieces": lambda: pieces(False),
    "pieces-prefix": lambda: pieces(True),
}


def said_by_llama(tokenizer: PreTrainedTokenizerFast, path: Path) -> Iterator[tuple[str, list[int], list[int]]]:
    """(text, tokens of llama.cpp, tokens of transformers) for a vocabulary written alone."""
    from llama_cpp import Llama

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in vocabulary(tokenizer, len(tokenizer) + 3)[0].items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        kinds[type(value)](key, value)
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    llama = Llama(str(path), vocab_only=True, verbose=False)
    for text in (PAGE, " leading", "trailing  ", "a", "\n\nb"):
        yield text, llama.tokenize(text.encode(), add_bos=True, special=True), tokenizer(text).input_ids


@NEEDS_LLAMA
@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_makes_the_tokens_that_transformers_makes(name: str, tmp_path: Path) -> None:
    for text, theirs, ours in said_by_llama(TOKENIZERS[name](), tmp_path / "v.gguf"):
        assert theirs == ours, text


@pytest.mark.parametrize("name", PRETOKENIZERS.values())
def test_a_way_of_cutting_text_has_llama_cpps_name(name: str) -> None:
    found, notes = vocabulary(TOKENIZERS[name](), 500)
    assert found["tokenizer.ggml.pre"] == name
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert notes == ()


def test_tokens_have_their_kinds_and_rows_without_a_token_a_name() -> None:
    tokenizer = pieces(False)
    tokenizer.add_tokens(["<table>", "▁▁"])
    found, _ = vocabulary(tokenizer, len(tokenizer) + 2)
    kinds = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    wanted = {"<unk>": 2, "<s>": 3, "</s>": 3, "<0x0A>": 6, "<table>": 4, "▁▁": 1, "a": 1, f"[PAD{len(tokenizer)}]": 5}
    assert {text: kinds[text] for text in wanted} == wanted
    assert found["tokenizer.ggml.bos_token_id"] == 1
    assert found["tokenizer.ggml.add_bos_token"] is True


def test_an_unknown_way_of_cutting_text_is_refused_with_its_definition() -> None:
    tokenizer = TOKENIZERS["gpt-2"]()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UnsupportedError, match=r"Whitespace.*knows no name"):
        vocabulary(tokenizer, 500)


def test_a_normal_form_that_llama_cpp_leaves_out_is_told() -> None:
    tokenizer = TOKENIZERS["qwen2"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    _, notes = vocabulary(tokenizer, 500)
    assert "normal form C" in notes[0]
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UnsupportedError, match="Lowercase"):
        vocabulary(tokenizer, 500)


def test_the_chat_template_is_in_the_file(made: Made, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(made())
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    found, _ = vocabulary(tokenizer, 320)
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
