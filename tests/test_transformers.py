"""omniq.transformers: from_pretrained on omniq's kernels for those who ask, and as ever for those who do not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import save_tiny, tokens
from torch import nn

from omniq import runtime
from omniq.checkpoint import Reader
from omniq.errors import ModelError, UnsupportedError, UsageError
from omniq.formats.base import FORMATS
from omniq.nn import QuantLinear
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.transformers import AutoModelForCausalLM, kernel_config

IDS = tokens()
ROUNDING = 2e-5
"""Of logits in float32, when sums are taken in another order."""


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint, and whether transformers alone computes the same from it."""

    model: str
    scheme: str = "W4A16g32"
    embed_bits: int = 16
    plainly: bool = True


CASES = (
    Case("llama"),
    Case("llama", "W4A16g32-asym"),
    Case("llama", "W4A4", plainly=False),  # omniq also rounds q, k and v inside attention
    Case("llama-tied", embed_bits=8),
    Case("llama-tied", "W3A16g32", embed_bits=4, plainly=False),  # one grid for all is all that it expands
    Case("phi", embed_bits=8),
    Case("gemma2", "W2A16g32"),
    Case("gemma3_text", "W8A16"),
    Case("falcon"),
    Case("mixtral"),
    Case("qwen3_moe", "W3A16g32"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


def folder(base: Path, case: Case, form: str = "compressed-tensors") -> Path:
    """The checkpoint of a case, made once."""
    out = base / f"{case.model}-{case.scheme}-{case.embed_bits}-{form}"
    if not out.is_dir():
        source = base / case.model
        if not source.is_dir():
            # Rows of heads and MLPs that every format can store.
            save_tiny(case.model, source, **({"intermediate_size": 128} if case.model == "llama" else {}))
        recipe = Recipe(LinearSpec.parse(case.scheme), preset="rtn", format=form, embed_bits=case.embed_bits)
        quantize(str(source), out, recipe)
    return out


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def packed(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, QuantLinear)}


# What is changed by asking, and what is not --------------------------------------------------------------------------


def test_nothing_is_registered_before_the_import_and_only_a_name_of_its_own_by_it(tmp_path: Path) -> None:
    code = """
from transformers.quantizers import auto
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto import auto_factory

def state():
    patched = (PreTrainedModel.from_pretrained.__func__, auto.get_hf_quantizer, auto_factory.AutoConfig.from_pretrained)
    return dict(auto.AUTO_QUANTIZER_MAPPING), dict(auto.AUTO_QUANTIZATION_CONFIG_MAPPING), [str(p) for p in patched]

before = state()
import omniq
omniq.load
assert state() == before
import omniq.transformers
after = state()
print([{name for name in new if name not in old or new[name] is not old[name]} for new, old in zip(after[:2], before)])
assert after[2] == before[2] and AutoModelForCausalLM is not omniq.transformers.AutoModelForCausalLM
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[{'omniq'}, {'omniq'}]"


def test_who_does_not_ask_gets_transformers_own_quantiser(base: Path) -> None:
    path = folder(base, CASES[0])
    own = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert own.config.quantization_config.quant_method == "compressed-tensors"
    assert packed(own) == set()
    asked = kernel_config(path)
    again = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert again.config.quantization_config.quant_method == "compressed-tensors"
    assert asked.quantization_config["quant_method"] == "omniq"


# The same model as omniq.load's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.scheme}-{case.embed_bits}")
def test_logits_are_those_of_omniq_load_and_close_to_transformers_own(case: Case, base: Path) -> None:
    path = folder(base, case)
    theirs, ours = AutoModelForCausalLM.from_pretrained(path), runtime.load(path)
    assert packed(theirs) == packed(ours) != set()
    assert runtime.kernels_in_words(theirs) == runtime.kernels_in_words(ours)
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=0, atol=0)
    assert not any(param.is_meta for param in (*theirs.parameters(), *theirs.buffers()))
    if case.plainly:
        own = transformers.AutoModelForCausalLM.from_pretrained(path)
        torch.testing.assert_close(logits(theirs), logits(own), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("form", list(FORMATS))
def test_every_format_loads(form: str, base: Path) -> None:
    path = folder(base, CASES[0], form)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(path)), logits(runtime.load(path)))


def test_whole_blocks_are_done_where_omniq_load_does_them(base: Path, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "wide", head_dim=32, hidden_size=128)
    quantize(str(source), tmp_path / "out", Recipe(LinearSpec.parse("W4A16g32"), preset="rtn"))
    theirs, ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), runtime.load(tmp_path / "out")
    assert theirs.omniq_unfused == ours.omniq_unfused
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=0, atol=0)


def test_weights_stay_packed_in_memory(base: Path) -> None:
    path = folder(base, CASES[0])
    model = AutoModelForCausalLM.from_pretrained(path)
    dense = sum(m.in_features * m.out_features * 4 for m in model.modules() if isinstance(m, QuantLinear))
    held = sum(m.weight_nbytes() for m in model.modules() if isinstance(m, QuantLinear))
    assert held < dense / 4


def test_generate_writes_what_omniq_load_writes(base: Path) -> None:
    path = folder(base, CASES[0])
    settings = {"max_new_tokens": 12, "do_sample": False}
    theirs, ours = AutoModelForCausalLM.from_pretrained(path), runtime.load(path)
    assert torch.equal(theirs.generate(IDS, **settings), ours.generate(IDS, **settings))


@pytest.mark.parametrize("asked", [{"embed_bits": 8}, {"embed_bits": 4}, {"activations": "int8"}], ids=str)
def test_settings_of_omniq_load_are_settings_here(asked: dict[str, Any], base: Path) -> None:
    path = folder(base, Case("llama-tied"))
    expected = logits(runtime.load(path, **asked))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(path, **asked)), expected)
    config = kernel_config(path, **asked)
    own = transformers.AutoModelForCausalLM.from_pretrained(path, config=config)
    assert torch.equal(logits(own), expected)


def test_a_concrete_class_takes_the_config_too_and_leaves_it_as_it_is(base: Path) -> None:
    path = folder(base, CASES[0])
    config = transformers.AutoConfig.from_pretrained(path)
    asked = kernel_config(path, config=config)
    assert config.quantization_config["quant_method"] == "compressed-tensors"
    model = transformers.LlamaForCausalLM.from_pretrained(path, config=asked)
    assert torch.equal(logits(model), logits(runtime.load(path)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_that_of_activations_and_unquantised_weights(dtype: torch.dtype, base: Path) -> None:
    path = folder(base, CASES[0])
    theirs, ours = AutoModelForCausalLM.from_pretrained(path, dtype=dtype), runtime.load(path, dtype=dtype)
    assert {param.dtype for param in theirs.parameters()} == {dtype}
    assert torch.equal(logits(theirs), logits(ours))


@pytest.mark.parametrize("place", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}])
def test_every_way_to_name_one_device_is_taken(place: Any, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = folder(base, CASES[0])
    model = AutoModelForCausalLM.from_pretrained(path, device_map=place)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert torch.equal(logits(model), logits(runtime.load(path)))


def test_attention_that_was_chosen_is_kept(base: Path) -> None:
    path = folder(base, CASES[0])
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        found = model(input_ids=IDS, output_attentions=True)
    assert len(found.attentions) == 2
    torch.testing.assert_close(found.logits, logits(runtime.load(path)), rtol=0, atol=ROUNDING)


# Saving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[2], Case("phi", embed_bits=8), Case("mixtral")], ids=str)
def test_save_pretrained_writes_the_checkpoint_again(case: Case, base: Path, tmp_path: Path) -> None:
    path = folder(base, case)
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path)
    before, after = Reader(path), Reader(tmp_path)
    assert set(before.names()) == set(after.names())
    assert all(torch.equal(before.read(name), after.read(name)) for name in before.names())
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((path / "config.json").read_text())


def test_a_model_loaded_in_another_dtype_saves_the_stored_tensors(base: Path, tmp_path: Path) -> None:
    path = folder(base, CASES[0])
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def changed(model: nn.Module) -> None:
    model.model.norm.weight.add_(1)


def replaced(model: nn.Module) -> None:
    model.model.layers[0].mlp.up_proj = nn.Linear(64, 128, bias=False)


def added(model: nn.Module) -> None:
    model.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed, "norm.weight has changed since"),
        (replaced, "up_proj is no longer a packed layer"),
        (added, "a parameter extra.weight that the checkpoint has not"),
    ],
)
def test_a_model_that_is_no_longer_the_checkpoint_is_not_saved(
    change: Any, said: str, base: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder(base, CASES[0]))
    change(model)
    with pytest.raises(UnsupportedError, match=said):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_packed_table_that_is_tied_is_not_saved_as_two(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder(base, Case("llama-tied", embed_bits=8)))
    with pytest.raises(UnsupportedError, match="packed as one"):
        model.save_pretrained(tmp_path)


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, UnsupportedError, "cpu, disk.*one device.*vLLM"),
        ({"device_map": {"model": "cpu", "lm_head": 0}}, UnsupportedError, "cpu, cuda:0.*one device"),
        ({"distributed_config": transformers.distributed.DistributedConfig()}, UnsupportedError, "distributed_config"),
        ({"quantization_config": transformers.GPTQConfig(4)}, UsageError, "asks for another quantiser"),
        ({"activations": "int3"}, UsageError, "activations are 'int3'"),
        ({"embed_bits": 5}, UsageError, "embedding bits are 5"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    settings: dict[str, Any], error: type[Exception], said: str, base: Path
) -> None:
    with pytest.raises(error, match=said):
        AutoModelForCausalLM.from_pretrained(folder(base, CASES[0]), **settings)


def test_a_table_is_not_rounded_twice(base: Path) -> None:
    with pytest.raises(UsageError, match="quantised already"):
        AutoModelForCausalLM.from_pretrained(folder(base, Case("llama-tied", embed_bits=8)), embed_bits=4)


def test_attention_that_cannot_round_q_k_and_v_is_refused(base: Path) -> None:
    with pytest.raises(UnsupportedError, match="leave attn_implementation out"):
        AutoModelForCausalLM.from_pretrained(folder(base, CASES[2]), attn_implementation="eager")


def test_a_dense_model_is_left_to_transformers(base: Path) -> None:
    folder(base, CASES[0])
    with pytest.raises(ModelError, match="is not quantised"):
        AutoModelForCausalLM.from_pretrained(base / "llama")


def test_a_config_of_another_folder_is_refused(base: Path) -> None:
    config = kernel_config(folder(base, CASES[1]))
    with pytest.raises(UsageError, match="other weights are to be loaded"):
        transformers.AutoModelForCausalLM.from_pretrained(folder(base, CASES[0]), config=config)


def test_an_argument_that_says_nothing_of_where_a_config_is_is_refused(base: Path) -> None:
    with pytest.raises(UsageError, match="no argument 'dtype'"):
        kernel_config(folder(base, CASES[0]), dtype="float32")
