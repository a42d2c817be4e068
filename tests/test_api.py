"""The Python API gives the bits that the command line gives, from whatever form a model and a text have."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TEXT, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

import omniq as package
import omniq.pipeline as pipeline
from omniq.api import Quantized, evaluate, quantize
from omniq.calibrate.data import DataSpec, tokens
from omniq.calibrate.method import METHODS
from omniq.cli.quantize import command
from omniq.errors import DataError, ModelError, OmniqError, OutputError, UsageError
from omniq.events import BlockDone, Notice, Started
from omniq.recipe import Recipe
from omniq.runtime import load
from omniq.spec import LinearSpec

SETTINGS: dict[str, Any] = {"samples": 4, "length": 24, "device": "cpu"}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a place for temporary folders that hold nothing else."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(pipeline, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def temporary(tmp_path: Path) -> Callable[[], list[Path]]:
    """What omniq has put into the place for temporary folders."""
    return lambda: sorted((tmp_path / "temporary").glob("omniq-*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that no test changes."""
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "model")


def stored(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def in_memory(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


# What comes out


def test_the_same_settings_give_the_same_checkpoint_as_the_command(folder, text, tmp_path, omniq):
    words = ("--wbits", "3", "--group-size", "16", "--preset", "gptq", "--set", "damp=0.02", "--seed", "5")
    data = ("--calib", str(text), "--samples", "4", "--length", "24", "--device", "cpu", "--quiet")
    assert omniq("quantize", str(folder), "-o", str(tmp_path / "cli"), *words, *data)[0] == 0
    quantize(folder, "W3A16g16", "gptq", data=text, seed=5, damp=0.02, out=tmp_path / "api", **SETTINGS)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "api" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", torch.float32),
        ("llama-tied", torch.bfloat16),
        ("gemma3_text", torch.bfloat16),
        ("opt", torch.float16),
        ("qwen3_moe", torch.float32),
    ],
)
def test_a_model_in_memory_gives_what_its_folder_gives(name, dtype, text, tmp_path):
    folder = save_tiny(name, tmp_path / "model", dtype)
    model = in_memory(folder)
    assert next(model.parameters()).dtype == dtype
    one = quantize(folder, "W4A16g16", "gptq", data=text, **SETTINGS)
    other = quantize(model, "W4A16g16", "gptq", data=text, tokenizer=tiny_tokenizer(), **SETTINGS)
    assert same(stored(one.folder), stored(other.folder))
    assert one.report.size_before == other.report.size_before


def test_a_model_in_memory_stays_as_it_is(folder, text):
    model = in_memory(folder).train()
    model.model.layers[0].eval()
    model.config.architectures = ["Something"]
    model.generation_config.max_new_tokens = 7
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict()))
    modes = [module.training for module in model.modules()]
    made = quantize(model, "W4A16g16", "rtn", tokenizer=tiny_tokenizer(), eval=text, eval_length=24, device="cpu")
    made.evaluate(text, model, length=24, device="cpu")
    assert same(before, model.state_dict())
    assert settings == (model.config.to_dict(), model.generation_config.to_dict())
    assert modes == [module.training for module in model.modules()]
    assert json.loads((made.folder / "generation_config.json").read_text())["max_new_tokens"] == 7


def test_texts_in_memory_are_the_file_that_holds_them(folder, tmp_path):
    texts = [f"{i}: {TEXT}" for i in range(6)]
    (tmp_path / "all.txt").write_text("\n\n".join(texts))
    one = quantize(folder, "W3A16g16", "gptq", data=tmp_path / "all.txt", seed=3, **SETTINGS)
    other = quantize(folder, "W3A16g16", "gptq", data=texts, seed=3, **SETTINGS)
    assert same(stored(one.folder), stored(other.folder))
    another = quantize(folder, "W3A16g16", "gptq", data=texts, seed=4, **SETTINGS)
    assert not same(stored(one.folder), stored(another.folder))


def test_token_ids_are_used_as_they_are_and_need_no_tokenizer(folder, text):
    spec = DataSpec(str(text), 4, 24)
    ids = tokens(spec, tiny_tokenizer(), model_key="", generate=None, cache=None).ids
    one = quantize(folder, "W4A16g16", "gptq", data=text, **SETTINGS)
    other = quantize(in_memory(folder), "W4A16g16", "gptq", data=ids, device="cpu")
    assert same(stored(one.folder), stored(other.folder))
    assert not (other.folder / "tokenizer.json").exists()
    assert other.recipe.data == DataSpec("(given)", 4, 24)


def test_a_recipe_is_taken_as_an_object_by_name_and_with_settings_over_it(folder, text):
    recipe = Recipe(LinearSpec.parse("W3A16g16"), "gptq", {"damp": 0.02}, DataSpec(str(text), 4, 24))
    assert quantize(folder, config=recipe, device="cpu").recipe == recipe
    made = quantize(folder, "W4A4-clip0.9", config=recipe, rotate="none", order=False, device="cpu").recipe
    assert str(made.scheme) == "W4A4-clip0.9"
    assert (made.options, made.data) == ({"damp": 0.02, "order": False}, recipe.data)
    assert quantize(folder, "W4A16g16", config="w4-rtn", device="cpu").recipe == Recipe(
        LinearSpec.parse("W4A16g16"), "rtn"
    )


def test_evaluate_measures_what_the_command_measures(folder, text, tmp_path, omniq):
    made = quantize(folder, "W3A16g16", "rtn", out=tmp_path / "out", device="cpu")
    words = (
        "eval",
        str(made.folder),
        "--text",
        str(text),
        "--against",
        str(folder),
        "--length",
        "32",
        "--windows",
        "9",
    )
    said = json.loads(omniq(*words, "--device", "cpu", "--json")[1])
    settings = {"length": 32, "windows": 9, "device": "cpu"}
    quality = made.evaluate(text, folder, **settings)
    assert (
        quality == made.evaluate(text, in_memory(folder), **settings) == evaluate(made.folder, text, folder, **settings)
    )
    figures = quality.to_dict()
    assert said == {"checkpoint": str(made.folder), "bytes": figures.pop("size"), **figures}
    alone = made.evaluate(text, **settings)
    assert (alone.ppl, alone.ppl_original, alone.kl, alone.top1) == (quality.ppl, None, None, None)


def test_load_gives_the_model_that_omniq_load_gives(folder, tmp_path):
    made = quantize(folder, "W4A16g16", "rtn", out=tmp_path / "out", device="cpu")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(made.load()(ids).logits, load(tmp_path / "out")(ids).logits)


# Folders


def test_a_temporary_folder_goes_with_its_owner(folder, temporary):
    made = quantize(folder, "W4A16g16", "rtn", device="cpu")
    assert [made.folder.parent] == temporary()
    assert [path.name for path in made.folder.parent.iterdir()] == [made.folder.name]
    del made
    gc.collect()
    assert temporary() == []


def test_saving_keeps_the_checkpoint_and_only_that(folder, temporary, tmp_path):
    made = quantize(in_memory(folder), "W4A16g16", "rtn", tokenizer=tiny_tokenizer(), device="cpu")
    files = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    kept = made.save(tmp_path / "deep" / "kept")
    assert temporary() == []
    assert made.folder == kept == tmp_path / "deep" / "kept"
    assert made.report.out == str(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files
    assert list(kept.parent.iterdir()) == [kept]
    again = made.save(tmp_path / "copy")
    assert made.folder == kept
    assert {path.name: path.read_bytes() for path in again.iterdir()} == files


def test_saving_replaces_nothing_unasked(folder, text, tmp_path):
    made = quantize(folder, "W4A16g16", "rtn", device="cpu")
    kept = made.save(tmp_path / "kept")
    other = quantize(folder, "W3A16g16", "rtn", device="cpu")
    with pytest.raises(OutputError, match="not empty"):
        other.save(kept)
    with pytest.raises(OutputError, match=r"lies in .* already"):
        other.save(other.folder, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        quantize(folder, "W4A16g16", "gptq", data=text, out=tmp_path / "begun", on_event=stop_at(0), **SETTINGS)
    with pytest.raises(OutputError, match="unfinished"):
        other.save(tmp_path / "begun")
    assert same(stored(made.folder), stored(kept))
    assert same(stored(other.save(kept, overwrite=True)), stored(other.folder))
    assert not same(stored(kept), stored(quantize(folder, "W4A16g16", "rtn", device="cpu").folder))


def stop_at(block: int) -> Callable[[Any], None]:
    """A listener that interrupts after a block."""

    def listener(event: Any) -> None:
        if isinstance(event, BlockDone) and event.index == block:
            raise KeyboardInterrupt

    return listener


def test_an_interrupted_run_on_a_model_in_memory_goes_on_where_it_stopped(folder, text, tmp_path):
    model, settings = in_memory(folder), {"data": [text.read_text()], "tokenizer": tiny_tokenizer(), **SETTINGS}
    out, seen = tmp_path / "here" / "out", []
    with pytest.raises(KeyboardInterrupt):
        quantize(model, "W4A16g16", "gptq", out=out, on_event=stop_at(0), **settings)
    assert [path.name for path in out.parent.iterdir()] == [".out.omniq"]
    made = quantize(model, "W4A16g16", "gptq", out=out, on_event=seen.append, **settings)
    assert [event.resumed_at for event in seen if isinstance(event, Started)] == [1]
    assert list(out.parent.iterdir()) == [out]
    assert same(stored(out), stored(quantize(model, "W4A16g16", "gptq", **settings).folder))
    assert made.folder == out


def test_a_failed_run_leaves_no_temporary_folder(folder, text, temporary):
    with pytest.raises(KeyboardInterrupt):
        quantize(
            in_memory(folder),
            "W4A16g16",
            "gptq",
            data=text,
            tokenizer=tiny_tokenizer(),
            on_event=stop_at(0),
            **SETTINGS,
        )
    with pytest.raises(DataError):
        quantize(folder, "W4A16g16", "gptq", data=["too short"], **SETTINGS)
    assert temporary() == []


# What is shown


def test_progress_is_shown_when_asked_for_and_events_come_in_any_case(folder, text, capfd):
    for progress in (False, True):
        seen: list[Any] = []
        quantize(folder, "W4A16g16", "gptq", data=text, progress=progress, on_event=seen.append, **SETTINGS)
        kinds = [type(event) for event in seen]
        assert kinds == [Notice, Started, BlockDone, BlockDone]
        said = "".join(capfd.readouterr())
        assert ("block 2/2" in said) is progress
        assert progress or said == ""


def test_it_prints_as_a_sentence(folder):
    made = quantize(folder, "W4A16g16", "rtn", device="cpu")
    assert repr(made) == f"Quantized(W4A16g16 by rtn, 6.00 bits per weight, in {made.folder})"


# Names


def test_arguments_have_the_names_of_the_command_line():
    own = set(inspect.signature(quantize).parameters)
    theirs = set(inspect.signature(command).parameters)
    renamed = {"data": "calib", "scheme": "wbits", "eval": "eval_text", "options": "set_", "progress": "quiet"}
    assert {renamed.get(name, name) for name in own} - theirs == {"tokenizer", "on_event"}
    in_scheme = {"abits", "group_size", "symmetric", "act_symmetric"}
    options = {"epochs", "let", "lwc_lr", "let_lr", "alpha", "aug_loss"}
    assert theirs - {renamed.get(name, name) for name in own} == {
        "ctx",
        "dry_run",
        "as_json",
        "log_json",
        *in_scheme,
        *options,
    }


@pytest.mark.parametrize("preset", [*METHODS])
def test_no_option_of_a_preset_is_taken_for_an_argument(preset):
    assert set(METHODS[preset].__dataclass_fields__) & set(inspect.signature(quantize).parameters) == set()


def test_the_package_lists_what_it_offers():
    assert set(dir(package)) - {"__version__"} == set(package.__all__)
    assert all(inspect.getdoc(getattr(package, name)) for name in package.__all__)
    assert package.quantize is quantize
    assert package.Quantized is Quantized


# What is refused

WRONG = {
    "no scheme": ({"scheme": "4bit"}, UsageError, "'4bit' is not a scheme"),
    "scheme of another type": ({"scheme": 4}, UsageError, "scheme is 4"),
    "no preset": ({"preset": "gtpq"}, UsageError, "did you mean 'gptq'"),
    "preset of another type": ({"preset": ["gptq"]}, UsageError, "preset is"),
    "misspelt setting": ({"sample": 3}, UsageError, "no option 'sample'; did you mean 'samples'"),
    "misspelt option": ({"preset": "gptq", "dmap": 0.1}, UsageError, "did you mean 'damp'"),
    "option of another preset": ({"preset": "gptq", "epochs": 1}, UsageError, "'gptq' adds: damp, order"),
    "bits by name": ({"wbits": 4}, UsageError, "wbits is part of the scheme"),
    "option of another type": ({"preset": "gptq", "damp": "a"}, UsageError, "damp is 'a'"),
    "setting of another type": ({"samples": "3"}, UsageError, "samples is '3'"),
    "no file": ({"data": "nowhere.txt"}, DataError, "there is no file nowhere.txt"),
    "data of another type": ({"data": 3}, UsageError, "data is of type int"),
    "texts of another type": ({"data": ["a", 1]}, UsageError, "data is of type list"),
    "no text": ({"data": ["", " "]}, DataError, "without text"),
    "too little text": ({"data": ["a"]}, DataError, "the given text holds"),
    "ids of another type": ({"data": torch.zeros(2, 8)}, DataError, "torch.float32 of shape"),
    "ids of another shape": ({"data": torch.zeros(8, dtype=torch.int64)}, DataError, r"of shape \(8,\)"),
    "ids of another model": ({"data": torch.full((1, 8), 320)}, DataError, "hold 320, .* 0 to 319"),
    "ids and a length": ({"data": torch.full((1, 8), 3), "length": 8}, UsageError, "length says how to draw"),
    "out of another type": ({"out": 3}, UsageError, "out is 3"),
    "no device": ({"device": "gpu"}, UsageError, "'gpu'"),
    "tokenizer of a folder": ({"tokenizer": 1}, UsageError, "goes with a model in memory"),
    "no recipe": ({"config": "w9"}, UsageError, "there is no recipe 'w9'"),
    "recipe of another type": ({"config": 3}, UsageError, "config is of type int"),
    "no model": ({"model": "nowhere/at/all"}, ModelError, "does not exist"),
    "model of another type": ({"model": 3}, UsageError, "the model is of type int"),
    "revision of a folder": ({"revision": "main"}, UsageError, "revision"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_sentence(given, kind, words, folder, temporary):
    with pytest.raises(kind, match=words) as raised:
        quantize(**{"model": folder, "scheme": "W4A16g16", "preset": "default", "device": "cpu", **given})
    assert isinstance(raised.value, OmniqError)
    assert temporary() == []


def offloaded() -> Any:
    with torch.device("meta"):
        return tiny_model("llama")[1]


def hooked() -> Any:
    model = tiny_model("llama")[1]
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output)
    return model


def with_adapters() -> Any:
    peft = pytest.importorskip("peft", reason="makes adapters with peft")
    return peft.get_peft_model(tiny_model("llama")[1], peft.LoraConfig(r=2, target_modules=["q_proj"]))


def with_injected_adapters() -> Any:
    peft = pytest.importorskip("peft", reason="makes adapters with peft")
    model = tiny_model("llama")[1]
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def with_two_tables() -> Any:
    model = tiny_model("llama-tied")[1]
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    return model


IN_MEMORY = {
    "offloaded": (offloaded, "meta device"),
    "hooked": (hooked, "forward hook on model.layers.1.mlp"),
    "with adapters": (with_adapters, "merge them first"),
    "with injected adapters": (with_injected_adapters, "merge them first"),
    "with two tables": (with_two_tables, "they are two tensors"),
    "without a head": (lambda: AutoModel.from_config(tiny_model("llama")[0]), "not a causal language model"),
    "encoder": (
        lambda: BertModel(BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)),
        "not a causal language model",
    ),
    "no model of transformers": (lambda: torch.nn.Linear(2, 2), "of type Linear"),
}


@pytest.mark.parametrize(("make", "words"), IN_MEMORY.values(), ids=IN_MEMORY)
def test_a_model_in_memory_that_no_checkpoint_can_hold_is_refused(make, words, temporary):
    with pytest.raises((ModelError, UsageError), match=words):
        quantize(make(), "W4A16g16", "rtn", tokenizer=tiny_tokenizer(), device="cpu")
    assert temporary() == []


def test_a_quantised_model_in_memory_is_refused(folder):
    made = quantize(folder, "W4A16g16", "rtn", device="cpu")
    for model in (made.load(), in_memory(made.folder)):
        with pytest.raises(ModelError, match="already quantised"):
            quantize(model, "W4A16g16", "rtn", tokenizer=tiny_tokenizer(), device="cpu")


def test_hooks_that_transformers_puts_on_itself_do_no_harm(folder, text):
    model = in_memory(folder)
    model(torch.tensor([[1, 2]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert quantize(model, "W4A16g16", "rtn", tokenizer=tiny_tokenizer(), device="cpu").report.verified


@pytest.mark.parametrize("tokenizer", [None, "gpt2"])
def test_a_model_in_memory_wants_its_tokenizer(tokenizer, folder):
    with pytest.raises(UsageError, match="tokenizer"):
        quantize(in_memory(folder), "W4A16g16", "gptq", tokenizer=tokenizer, device="cpu")


def test_evaluate_says_what_is_wrong(folder, text, tmp_path):
    made = quantize(folder, "W4A16g16", "rtn", device="cpu")
    with pytest.raises(UsageError, match="name that model in against"):
        made.evaluate(text, revision="main")
    with pytest.raises(UsageError, match="of type int"):
        made.evaluate(text, 3)
    with pytest.raises(DataError, match="there is no file"):
        made.evaluate(tmp_path / "nowhere.txt")
    with pytest.raises(ModelError, match="not a folder that exists"):
        evaluate(tmp_path / "nowhere", text)
