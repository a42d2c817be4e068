"""Opening models: what is read is what was saved, what is built computes what transformers computes, and bad folders
are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, TEXT, UNKNOWN, VARIANTS, save_tiny, settings_of, tiny_model, tokens
from tiny_gguf import save_tiny_gguf
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from omniq import hf, source
from omniq.attention import capped_attention, set_attention
from omniq.errors import HubError, ModelError, OmniqError, UnsupportedError
from omniq.spec import ActSpec
from omniq.structure import linears

EVERY = [*ARCHITECTURES, *VARIANTS, *UNKNOWN]
MOE = ["mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe-dense-layer"]
WITHOUT_INTERFACE = {name for name in EVERY if name.startswith("falcon")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> a folder with that tiny model in float32, made once; tests must not change it."""
    root = tmp_path_factory.mktemp("models")

    def made(name: str) -> Path:
        return root / name if (root / name).exists() else save_tiny(name, root / name)

    return made


@torch.no_grad()
def materialized(model: hf.OpenModel) -> nn.Module:
    """The skeleton with every parameter read from the checkpoint."""
    values = {name: model.read(name) for name, _ in model.skeleton.named_parameters()}
    model.skeleton.load_state_dict(values, assign=True, strict=False)
    model.skeleton.tie_weights()
    return model.skeleton


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """The folder with its tensors replaced."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def configured(folder: Path, **entries: object) -> Path:
    """The folder with entries of its config.json replaced."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_a_materialized_skeleton_computes_the_dense_models_logits(name: str, folder: Callable[[str], Path]) -> None:
    dense = hf.load_dense(folder(name), torch.float32)
    skeleton = materialized(hf.open_model(folder(name)))
    ids = tokens()
    expected, found = dense(ids).logits, skeleton(ids).logits
    if name in MOE:  # one product per expert instead of one for all: the order of additions differs
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "mistral"])
def test_padding_is_masked_as_in_the_dense_model(name: str, folder: Callable[[str], Path]) -> None:
    dense = hf.load_dense(folder(name), torch.float32)
    skeleton = materialized(hf.open_model(folder(name)))
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, :5] = 0
    expected, found = (model(tokens(), attention_mask=mask).logits for model in (dense, skeleton))
    assert torch.equal(found[0, 5:], expected[0, 5:])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name", EVERY)
def test_read_gives_the_saved_tensors(name: str, folder: Callable[[str], Path]) -> None:
    model = hf.open_model(folder(name))
    saved = load_file(folder(name) / "model.safetensors")
    taken = {model.stored_name(param): model.read(param) for param, _ in model.skeleton.named_parameters()}
    assert set(taken) == set(saved)
    assert all(torch.equal(taken[key], saved[key]) for key in saved)


@pytest.mark.parametrize("name", EVERY)
def test_a_skeleton_holds_real_buffers_and_no_weights(name: str, folder: Callable[[str], Path]) -> None:
    skeleton = hf.open_model(folder(name)).skeleton
    assert all(param.is_meta and not param.requires_grad for param in skeleton.parameters())
    assert not any(buffer.is_meta for buffer in skeleton.buffers())
    assert not skeleton.training
    assert skeleton.config.use_cache is False


@pytest.mark.parametrize("name", EVERY)
def test_every_matrix_of_the_blocks_is_a_linear_to_quantise_or_accounted_for(
    name: str, folder: Callable[[str], Path]
) -> None:
    model = hf.open_model(folder(name))
    matrices = {
        param.removesuffix(".weight")
        for param, value in model.skeleton.named_parameters()
        if param.startswith(model.blocks + ".") and value.dim() >= 2
    }
    assert matrices == {*model.linears, *model.skipped, *(name for name in model.dense_linears() if name in matrices)}
    assert all(isinstance(model.skeleton.get_submodule(linear), nn.Linear) for linear in model.linears)
    routers = {matrix for matrix in matrices if matrix.endswith("mlp.gate")}
    assert matrices & set(model.dense_linears()) == routers


@pytest.mark.parametrize("name", MOE)
def test_experts_are_linears_under_the_names_checkpoints_use(name: str, folder: Callable[[str], Path]) -> None:
    model = hf.open_model(folder(name))
    experts = [linear for linear in model.linears if ".experts." in linear]
    sparse = 1 if name.endswith("dense-layer") else 2
    assert len(experts) == sparse * 4 * 3
    assert f"{model.blocks}.1.mlp.experts.3.down_proj" in experts


def test_a_gate_with_one_output_is_skipped_with_a_reason(folder: Callable[[str], Path]) -> None:
    skipped = hf.open_model(folder("qwen2_moe")).skipped
    assert list(skipped) == [f"model.layers.{n}.mlp.shared_expert_gate" for n in range(2)]
    assert "table" in skipped["model.layers.0.mlp.shared_expert_gate"]


@pytest.mark.parametrize("router", ["router", "router.layer", "gate"])
def test_a_router_that_is_a_linear_stays_in_floating_point(router: str) -> None:
    block = nn.ModuleDict({"up": nn.Linear(8, 16), "gate_proj": nn.Linear(8, 16)})
    inner = nn.Linear(8, 4)
    block.add_module(router.split(".")[0], nn.ModuleDict({"layer": inner}) if "." in router else inner)
    chosen, skipped = linears(nn.ModuleDict({"layers": nn.ModuleList([block])}), "layers", ())
    assert chosen == ("layers.0.up", "layers.0.gate_proj")
    assert list(skipped) == [f"layers.0.{router}"]
    assert "chooses experts" in skipped[f"layers.0.{router}"]


@pytest.mark.parametrize("name", EVERY)
def test_the_attention_hook_is_there_where_attention_is_looked_up(name: str, folder: Callable[[str], Path]) -> None:
    assert hf.open_model(folder(name)).attention_hook is (name not in WITHOUT_INTERFACE)


def naive_attention(spec: ActSpec) -> Callable:
    """Attention by the definition: heads repeated, every token of q, k, v rounded, scores capped, masked, softmax."""

    def rounded(x: Tensor) -> Tensor:
        low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
        step = 2 * x.abs().amax(-1, keepdim=True) / (high - low)
        return (x / step).round().clamp(low, high) * step

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **_):
        share = query.shape[1] // key.shape[1]
        q, k, v = rounded(query), rounded(key).repeat_interleave(share, 1), rounded(value).repeat_interleave(share, 1)
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        t = torch.arange(scores.shape[-1])
        seen = t[:, None] >= t[None]
        if sliding_window is not None:
            seen &= t[:, None] - t[None] < sliding_window
        return torch.einsum("bhts,bhsd->bthd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v), None

    return attend


def test_capped_attention_without_a_mask_sees_what_came_before_counted_from_the_end() -> None:
    q, k, v = (torch.randn(1, heads, length, 8) for heads, length in ((4, 3), (2, 5), (2, 5)))
    scores = torch.einsum("bhtd,bhsd->bhts", q, k.repeat_interleave(2, 1)) * 0.3
    scores = 5 * torch.tanh(scores / 5)
    unseen = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
    wanted = torch.einsum("bhts,bhsd->bthd", weights, v.repeat_interleave(2, 1))
    torch.testing.assert_close(capped_attention(q, k, v, None, 0.3, 5.0), wanted)
    torch.testing.assert_close(capped_attention(q, k, v, ~unseen[None, None], 0.3, 5.0), wanted)


def first_attention(model: nn.Module) -> Tensor:
    """What the first attention module returns for tokens(): (B, T, D). Its input does not depend on any rounding."""
    found: list[Tensor] = []
    module = next(module for module in model.modules() if type(module).__name__.endswith("Attention"))
    with module.register_forward_hook(lambda _module, _args, output: found.append(output[0])):
        model(tokens())
    return found[0]


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["llama", "mistral", "gemma2", "gemma3_text", "opt", "phi", "phi3", "gpt_neox", "mixtral"]
)
@pytest.mark.parametrize("bits", [4, 8])
def test_set_attention_rounds_q_k_and_v_per_token_and_head(name: str, bits: int, folder: Callable[[str], Path]) -> None:
    skeleton = materialized(hf.open_model(folder(name)))
    plain = first_attention(skeleton)
    assert set_attention(skeleton, ActSpec(bits)) == skeleton.config.num_hidden_layers
    rounded = first_attention(skeleton)
    AttentionInterface.register("naive", naive_attention(ActSpec(bits)))
    skeleton.set_attn_implementation("naive")
    torch.testing.assert_close(rounded, first_attention(skeleton))
    assert (rounded - plain).abs().max() > 1e-3
    skeleton.set_attn_implementation(hf.ATTENTION)
    set_attention(skeleton, None)
    assert torch.equal(first_attention(skeleton), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_skeleton_takes_over_the_stored_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    model = hf.open_model(save_tiny("gemma3_text", tmp_path / "m", dtype))
    assert model.dtype == dtype
    assert {param.dtype for param in model.skeleton.parameters()} == {dtype}
    assert {buffer.dtype for buffer in model.skeleton.buffers()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "opt", "gpt_neox"])
def test_a_checkpoint_without_the_backbones_prefix_is_understood(
    name: str, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    prefix = {"gpt_neox": "gpt_neox."}.get(name, "model.")
    bare = rewritten(save_tiny(name, tmp_path / "m"), lambda ts: {key.removeprefix(prefix): t for key, t in ts.items()})
    expected, found = (materialized(hf.open_model(place))(tokens()).logits for place in (folder(name), bare))
    assert torch.equal(found, expected)


def test_a_sharded_checkpoint_reads_the_same(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    _, dense = tiny_model("qwen3")
    dense.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, sharded = hf.open_model(folder("qwen3")), hf.open_model(tmp_path)
    assert all(torch.equal(whole.read(name), sharded.read(name)) for name, _ in whole.skeleton.named_parameters())


@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama-tied", True), ("opt", True)])
def test_a_tied_head_reads_the_embedding(name: str, tied: bool, folder: Callable[[str], Path]) -> None:
    model = hf.open_model(folder(name))
    assert model.tied is tied
    embedding = next(key for key, _ in model.skeleton.named_parameters() if "embed_tokens" in key)
    assert (model.stored_name("lm_head.weight") == model.stored_name(embedding)) is tied


def test_the_generation_config_of_the_folder_is_kept(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "temperature": 0.5, "do_sample": true}')
    assert hf.open_model(tmp_path).skeleton.generation_config.eos_token_id == 7


def test_a_quantised_checkpoint_opens_when_asked(tmp_path: Path) -> None:
    packed = {"quantization_config": {"quant_method": "compressed-tensors"}}
    name = "model.layers.0.self_attn.q_proj"
    configured(
        rewritten(
            save_tiny("llama", tmp_path),
            lambda ts: {k.replace(f"{name}.weight", f"{name}.weight_packed"): t for k, t in ts.items()},
        ),
        **packed,
    )
    model = hf.open_model(tmp_path, quantized=True)
    assert model.stored_name(f"{name}.weight") == f"{name}.weight"
    with pytest.raises(ModelError, match=r"holds no tensor 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        model.read(f"{name}.weight")


def without(pattern: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Drops the tensors whose name holds `pattern`."""
    return lambda tensors: {key: value for key, value in tensors.items() if pattern not in key}


def reshaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row less in one matrix."""
    return {
        key: value[:-1].clone() if key.endswith("0.mlp.up_proj.weight") else value for key, value in tensors.items()
    }


def as_int8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One matrix as integers."""
    return {
        key: value.to(torch.int8) if key.endswith("0.mlp.up_proj.weight") else value for key, value in tensors.items()
    }


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a block is missing": (
        lambda p: rewritten(p, without("layers.1.")),
        r"lacks 9 of the tensors its config.json asks for \(model\.layers\.1\..*, \.\.\.\); the copy is incomplete",
    ),
    "norms are missing": (lambda p: rewritten(p, without("norm.weight")), r"lacks 5 of the tensors"),
    "a row is missing": (
        lambda p: rewritten(p, reshaped),
        r"'model\.layers\.0\.mlp\.up_proj\.weight' of .* has shape \(95, 64\), but config.json asks for \(96, 64\)",
    ),
    "integers": (
        lambda p: rewritten(p, as_int8),
        r"is stored as torch.int8; expected float32, bfloat16 or float16: give the original",
    ),
    "another size": (lambda p: configured(p, intermediate_size=128), r"config and weights do not belong together"),
    "a size in words": (lambda p: configured(p, hidden_size="wide"), r"transformers cannot (read|build) .*hidden_size"),
    "no heads": (lambda p: configured(p, num_attention_heads=0), r"transformers cannot (read|build)"),
    "an unknown type": (lambda p: configured(p, model_type="nonesuch"), r"transformers cannot read .*nonesuch"),
    "a classifier": (
        lambda p: configured(p, architectures=["LlamaForSequenceClassification"]),
        r"holds LlamaForSequenceClassification, which is not a causal language model",
    ),
    "an encoder-decoder": (
        lambda p: configured(p, model_type="t5", is_encoder_decoder=True),
        r"is an encoder-decoder \(t5\); omniq quantises decoder-only",
    ),
    "an encoder": (
        lambda p: configured(p, model_type="bert", architectures=None),
        r"is a bert model, an encoder; omniq quantises decoder-only",
    ),
    "not a language model": (
        lambda p: configured(p, model_type="vit", architectures=None),
        r"is a vit model; transformers knows no causal language model",
    ),
    "quantised already": (
        lambda p: configured(p, quantization_config={"quant_method": "gptq"}),
        r"is already quantised \(gptq\); give the original",
    ),
    "code of its own": (
        lambda p: configured(p, model_type="own", auto_map={"AutoModelForCausalLM": "m.M"}),
        r"only loads with the Python code that comes with it; .*--trust-remote-code",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_quantised_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    change, sentence = REFUSED[case]
    with pytest.raises(ModelError, match=sentence) as caught:
        hf.open_model(change(save_tiny("llama", tmp_path)))
    assert "\n" not in str(caught.value)


def test_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    with pytest.raises(ModelError, match=r"config\.json does not hold valid JSON"):
        hf.open_model(tmp_path)


def saved(kind: str, place: Path, **settings: object) -> Path:
    """A folder with a small random model of any type."""
    config = AutoConfig.for_model(kind, **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(place)
    return place


def test_blocks_without_linear_layers_are_unsupported(tmp_path: Path) -> None:
    small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    with pytest.raises(
        UnsupportedError, match=r"the blocks transformer\.h of GPT2LMHeadModel hold no nn\.Linear .*Conv1D"
    ):
        hf.open_model(saved("gpt2", tmp_path, **small))


def test_experts_of_another_layout_are_unsupported(tmp_path: Path) -> None:
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = AutoConfig.for_model(
        "gpt_oss", **small, intermediate_size=32, num_local_experts=2, num_experts_per_tok=1, vocab_size=64
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedError, match=r"model\.layers\.0\.mlp\.experts \(GptOssExperts\) keeps its experts in one tensor"
    ):
        hf.open_model(tmp_path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p / "absent" / "deep" / "path", r"does not exist; give a model folder, a GGUF file or a hub id"),
        (lambda p: p / "model.gguf", r"model\.gguf does not exist"),
        (lambda p: p, r"holds no config\.json, so it is not a model folder"),
    ],
)
def test_a_path_that_is_no_model_is_refused(make: Callable[[Path], Path], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=sentence):
        hf.resolve(str(make(tmp_path)), work=tmp_path)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("pytorch_model.bin", r"as pickles only, which can run code .*convert them to safetensors"),
        ("notes.md", r"holds no safetensors file"),
    ],
)
def test_a_folder_without_safetensors_is_refused(file: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ModelError, match=sentence):
        hf.resolve(str(tmp_path), work=tmp_path)


def test_a_folder_with_only_a_gguf_file_is_told_to_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"to use weights\.gguf, give the path of that file"):
        hf.resolve(str(tmp_path), work=tmp_path)


def test_a_hub_id_that_is_not_cached_is_refused_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source.constants, "HF_HUB_OFFLINE", True)
    assert hf.offline()
    with pytest.raises(
        ModelError,
        match=r"'org/not-here' is neither a local folder nor in the hub's cache, and HF_HUB_OFFLINE is set; give",
    ):
        hf.resolve("org/not-here", work=tmp_path)


def test_a_download_never_asks_for_pickles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    asked: list[dict] = []
    monkeypatch.setattr(
        source, "snapshot_download", lambda model, **kw: asked.append({"model": model, **kw}) or str(folder("llama"))
    )
    assert hf.resolve("org/name", revision="v1", work=tmp_path) == folder("llama")
    assert asked[0]["model"] == "org/name"
    assert asked[0]["revision"] == "v1"
    assert not [p for p in asked[0]["allow_patterns"] if p.endswith((".bin", ".pt", ".pth", ".py", "*"))]


def test_a_local_folder_resolves_to_itself(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    assert hf.resolve(str(folder("llama")), work=tmp_path) == folder("llama")


@torch.no_grad()
def test_a_gguf_file_becomes_a_bfloat16_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = save_tiny_gguf(tmp_path / "tiny.gguf")
    made = hf.resolve(str(tmp_path / "tiny.gguf"), work=tmp_path)
    assert made.parent == tmp_path
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    opened = hf.open_model(made)
    assert opened.dtype == torch.bfloat16
    assert all(torch.equal(opened.read(name).float(), value) for name, value in original.state_dict().items())
    torch.testing.assert_close(hf.load_dense(made, torch.float32)(tokens()).logits, original(tokens()).logits)
    assert hf.load_tokenizer(made).decode(hf.load_tokenizer(made)(TEXT).input_ids) == TEXT
    monkeypatch.setattr("omniq.hf.files.convert_gguf", lambda *_: pytest.fail("converted twice"))
    assert hf.resolve(str(tmp_path / "tiny.gguf"), work=tmp_path) == made


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (lambda raw: b"PK" + raw[2:], r"is not a GGUF file; give a GGUF file, or the folder"),
        (lambda raw: raw[: len(raw) // 2], r"is no sound GGUF file: tensor .* it is damaged or cut off"),
        (lambda raw: raw[:4], r"is no sound GGUF file: it ends in the middle"),
    ],
)
def test_a_damaged_gguf_file_is_refused_and_leaves_nothing(
    cut: Callable[[bytes], bytes], sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    save_tiny_gguf(file)
    file.write_bytes(cut(file.read_bytes()))
    with pytest.raises(ModelError, match=sentence):
        hf.resolve(str(file), work=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_the_tokenizer_of_a_folder_encodes_without_loss(folder: Callable[[str], Path]) -> None:
    tokenizer = hf.load_tokenizer(folder("llama"))
    ids = tokenizer("Ünïcode, too: 3.14").input_ids
    assert tokenizer.decode(ids) == "Ünïcode, too: 3.14"
    assert max(ids) < settings_of("llama")[1]["vocab_size"]


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    tiny_model("llama")[1].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no tokenizer: it needs one of tokenizer\.json, tokenizer\.model"):
        hf.load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=r"cannot load the tokenizer of"):
        hf.load_tokenizer(tmp_path)


def test_every_refusal_has_its_own_exit_code() -> None:
    assert issubclass(ModelError, OmniqError)
    assert ModelError.exit_code != UnsupportedError.exit_code != OmniqError.exit_code


@pytest.mark.parametrize(
    "error",
    [
        source.TRANSPORT("peer closed connection without sending complete message body"),
        RuntimeError("Cannot send a request, as the client has been closed."),
        AttributeError("'NoneType' object has no attribute 'request'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_breaks_off_while_a_model_is_fetched_is_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(source, "snapshot_download", breaking)
    with pytest.raises(HubError, match=r"broke off while 'org/name' was fetched .*same command again to go on"):
        source.located("org/name", None, False)
