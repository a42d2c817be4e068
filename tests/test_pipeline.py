"""From a model folder to a verified checkpoint: what is loaded computes what was calibrated, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import ARCHITECTURES, UNKNOWN, VARIANTS, save_tiny, tiny_tokenizer, tokens

import omniq.job as job
from omniq.calibrate.data import DataSpec
from omniq.calibrate.view import activation_grids
from omniq.errors import ModelError, OmniqError, OutputError, UnsupportedError, UsageError, VerificationError
from omniq.eval.windows import EvalSpec
from omniq.events import BlockDone, Notice, Started, Step
from omniq.hf import load_dense, open_model
from omniq.kernels.cpu import Cpu
from omniq.pipeline import plan, quantize
from omniq.recipe import Recipe
from omniq.runtime import format_of, info, load, quantized_linears
from omniq.spec import LinearSpec

PRESETS = {
    "rtn": {},
    "gptq": {},
    "awq": {"grid": 4},
    "omniquant": {"epochs": 1},
    "default": {"scaling": 4, "steps": 2, "batch": 2},
    "fast": {"scaling": 4},
}


pytestmark = pytest.mark.usefixtures("own_cache")


def recipe(scheme: str, text: Path, preset: str = "omniquant", options: dict | None = None, **other) -> Recipe:
    return Recipe(
        LinearSpec.parse(scheme),
        preset,
        PRESETS[preset] if options is None else options,
        DataSpec(str(text), 4, 24),
        **other,
    )


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def decoded(folder: Path):
    """A dense model with the checkpoint's decoded weights: what calibration ended with."""
    model = open_model(folder, quantized=True)
    values = {name: q.dequantize() for name, (q, _) in quantized_linears(model).items()}
    for name, param in list(model.skeleton.named_parameters(remove_duplicate=False)):
        module = name.removesuffix(".weight")
        value = values[module] if name.endswith(".weight") and module in values else model.read(name).float()
        owner, _, leaf = name.rpartition(".")
        model.skeleton.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
        del param
    return model, format_of(model)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", ["W4A16g16", "W3A16", "W2A16g32", "W4A16g16-asym", "W8A16g16"])
def test_plain_transformers_and_omniq_load_the_calibrated_model(scheme, dtype, tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model", dtype)
    report = quantize(str(folder), tmp_path / "out", recipe(scheme, text))
    assert report.verified
    model, specs = decoded(tmp_path / "out")
    ids = tokens(2, 24)
    expected = logits(model.skeleton, ids)
    torch.testing.assert_close(logits(load(tmp_path / "out", dtype=torch.float32), ids), expected, rtol=1e-4, atol=1e-4)
    if "asym" in scheme:  # which transformers expands at load, in the checkpoint's dtype
        for name in specs:
            weight = model.skeleton.get_submodule(name).weight
            weight.copy_(weight.to(dtype))
        expected = logits(model.skeleton, ids)
    torch.testing.assert_close(logits(load_dense(tmp_path / "out", torch.float32), ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS, *UNKNOWN])
def test_every_architecture_loads_in_plain_transformers_and_in_omniq(name, tmp_path, text):
    folder = save_tiny(name, tmp_path / "model")
    assert quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, "rtn")).verified
    model, _ = decoded(tmp_path / "out")
    ids = tokens(2, 24)
    expected = logits(model.skeleton, ids)
    for loaded in (load(tmp_path / "out"), load_dense(tmp_path / "out", torch.float32)):
        torch.testing.assert_close(logits(loaded, ids), expected, rtol=1e-4, atol=1e-4)


NOT_THE_SAME_IN_TRANSFORMERS = {
    "qwen3_moe": "experts become dense on load, without activation grids",
    "mixtral": "experts become dense on load, without activation grids",
    "opt": "one activation scale for the whole of a two-dimensional input",
    "falcon": "its linear class reads the weight itself, so packed weights cannot stand in for it",
}


def compute_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the same sums as the model that is compared with. The largest value of a token lies half way between two
    codes of its grid, so that the last bit of a sum decides which it gets."""
    monkeypatch.setattr(Cpu, "refuse", lambda *_: "not in this test")


@pytest.mark.parametrize(
    "name", ["llama", "opt", "gemma3_text", "qwen3_moe", "phi3", "gpt_neox", "falcon", "mixtral", "llama-tied"]
)
@pytest.mark.parametrize("scheme", ["W4A4", "W6A6", "W4A8"])
def test_activation_grids_are_kept_on_reload(name, scheme, tmp_path, text, monkeypatch):
    compute_in_torch(monkeypatch)
    folder = save_tiny(name, tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe(scheme, text, attention=False))
    model, specs = decoded(tmp_path / "out")
    ids = tokens(2, 24)
    stored = {model.stored_name(f"{n}.weight").removesuffix(".weight"): n for n in model.linears}
    with activation_grids(model.skeleton, {stored[n]: s for n, s in specs.items()}, None):
        expected = logits(model.skeleton, ids)
    torch.testing.assert_close(logits(load(tmp_path / "out"), ids), expected, rtol=1e-3, atol=1e-3)
    if name not in NOT_THE_SAME_IN_TRANSFORMERS:
        torch.testing.assert_close(
            logits(load_dense(tmp_path / "out", torch.float32), ids), expected, rtol=1e-3, atol=1e-3
        )


def test_attention_grids_are_kept_on_reload(tmp_path, text, monkeypatch):
    compute_in_torch(monkeypatch)
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A4", text))
    assert json.loads((tmp_path / "out/config.json").read_text())["omniq"]["attention"] == {
        "bits": 4,
        "symmetric": True,
        "clip": 1.0,
        "hadamard": False,
        "queries": True,
    }
    model, specs = decoded(tmp_path / "out")
    ids = tokens(2, 24)
    with activation_grids(model.skeleton, specs, LinearSpec.parse("W4A4").input):
        expected = logits(model.skeleton, ids)
    with activation_grids(model.skeleton, specs, None):
        without = logits(model.skeleton, ids)
    torch.testing.assert_close(logits(load(tmp_path / "out"), ids), expected, rtol=1e-3, atol=1e-3)
    assert (without - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "phi", "opt", "mistral"])
def test_transformations_survive_the_way_to_disk_and_back(name, tmp_path, text):
    folder = save_tiny(name, tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, options={"epochs": 1, "let": True}))
    model, _ = decoded(tmp_path / "out")
    ids = tokens(2, 24)
    expected = logits(model.skeleton, ids)
    torch.testing.assert_close(logits(load_dense(tmp_path / "out", torch.float32), ids), expected, rtol=1e-4, atol=1e-4)
    with (
        safe_open(folder / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "out/model.safetensors", "pt") as after,
    ):
        shared = set(before.keys()) & set(after.keys())
        assert [n for n in shared if not torch.equal(before.get_tensor(n), after.get_tensor(n))], (
            "no norm carries a fold"
        )


def test_an_asymmetric_format_and_the_embedded_record_are_written(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model", torch.bfloat16)
    report = quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text), evaluate=EvalSpec(text, 4, 16))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["omniq"]["recipe"]["scheme"] == "W4A16g16"
    assert config["omniq"]["quality"]["kl"] == pytest.approx(report.kl)
    assert {
        "config.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    } <= {p.name for p in (tmp_path / "out").iterdir()}
    assert report.bits_per_weight == 5.0
    assert info(tmp_path / "out")["bits_per_weight"] == 5.0
    assert not list(tmp_path.glob(".out*"))
    assert "W4A16g16" in (tmp_path / "out/README.md").read_text()


def test_generation_runs_with_a_cache(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, "rtn"))
    model = load(tmp_path / "out")
    ids = tokens(1, 5)
    out = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=1, eos_token_id=None)
    greedy = ids
    for _ in range(6):
        greedy = torch.cat([greedy, logits(model, greedy)[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, greedy)


def test_a_config_with_other_bits_than_the_weights_is_refused(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, "rtn"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["omniq"]["attention"] is None, "nothing inside attention is quantised with 16-bit activations"
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 3
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weight_packed"):
        load(tmp_path / "out")


def test_a_sharded_model_and_a_single_file_give_the_same_bits(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "whole")
    load_dense(folder, torch.float32).save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    outs = [tmp_path / "a", tmp_path / "b"]
    for source, out in zip(("whole", "sharded"), outs, strict=True):
        quantize(str(tmp_path / source), out, recipe("W4A16g16", text, "gptq"))
    assert same_files(*outs)


def same_files(a: Path, b: Path) -> bool:
    """Whether the weights of two checkpoints are the same byte for byte."""
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


class Stop(Exception):
    """Raised to interrupt a run at a chosen block."""


def stop_after(index: int):
    def listener(event):
        if isinstance(event, BlockDone) and event.index == index:
            raise Stop

    return listener


@pytest.mark.parametrize("preset", list(PRESETS))
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(preset, tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "whole", recipe("W3A16g16", text, preset))
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text, preset), on_event=stop_after(0))
    assert not (tmp_path / "out").exists()
    finished = (tmp_path / ".out.omniq/block-00000.safetensors").read_bytes()
    events = []
    quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text, preset), on_event=events.append)
    assert next(e for e in events if isinstance(e, Started)).resumed_at == 1
    assert finished
    assert same_files(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("scheme", ["W3A16g16-asym", "W4A4"])
def test_a_run_stopped_while_it_is_tuned_end_to_end_keeps_its_blocks_and_ends_with_the_same_bits(
    scheme, tmp_path, text
):
    folder = save_tiny("llama", tmp_path / "model")
    options = {"scaling": 4, "steps": 2, "batch": 2, "final_epochs": 3, "scale_lr": 1e-2}
    settings = recipe(scheme, text, "default", options)
    quantize(str(folder), tmp_path / "whole", settings)

    def stopped(event):
        if isinstance(event, Step):
            raise Stop

    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", settings, on_event=stopped)
    events = []
    quantize(str(folder), tmp_path / "out", settings, on_event=events.append)
    assert not [event for event in events if isinstance(event, BlockDone)]
    assert any(isinstance(event, Notice) and "end to end" in event.text for event in events)
    assert same_files(tmp_path / "whole", tmp_path / "out")


def test_tuning_end_to_end_changes_scales_and_no_integer(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    options = {"scaling": 4, "steps": 2, "batch": 2, "final_epochs": 0}
    quantize(str(folder), tmp_path / "blocks", recipe("W3A16g16-asym", text, "default", options))
    tuned = options | {"final_epochs": 4, "scale_lr": 3e-3}
    quantize(str(folder), tmp_path / "tuned", recipe("W3A16g16-asym", text, "default", tuned))
    before, after = (
        dict(quantized_linears(open_model(tmp_path / name, quantized=True)).items()) for name in ("blocks", "tuned")
    )
    moved = 0
    for name, (q, _) in after.items():
        assert torch.equal(q.codes, before[name][0].codes)
        assert torch.equal(q.zeros, before[name][0].zeros)
        moved += int((q.scales != before[name][0].scales).sum())
    assert moved


KILLED = """
import os, signal, sys
from pathlib import Path
import omniq.job as job
import omniq.pipeline as pipeline
from omniq.calibrate.data import DataSpec
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
model, out, text, cache, when = sys.argv[1:]
pipeline.cache_folder = lambda: Path(cache)
replace, count = os.replace, [0]
def dying(a, b):
    count[0] += 1
    if count[0] == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
os.replace = dying
recipe = Recipe(LinearSpec.parse("W3A16g16"), "omniquant", {"epochs": 1}, DataSpec(text, 4, 24))
pipeline.quantize(model, Path(out), recipe)
"""


def test_a_run_killed_between_any_two_files_goes_on_and_ends_with_the_same_bits(tmp_path, text):
    """SIGKILL at a rename: of a block, of the streams after the block itself, of the next block, and none."""
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "whole", recipe("W3A16g16", text))
    for when in ("2", "2", "3", "99"):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *map(str, (folder, tmp_path / "out", text, tmp_path / "cache")), when],
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        if when == "99":
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == -signal.SIGKILL
            assert not (tmp_path / "out").exists()
    assert same_files(tmp_path / "whole", tmp_path / "out")


CHANGES = {
    "recipe.scheme": {"scheme": "W4A16g16"},
    "recipe.options": {"options": {"epochs": 2}},
    "recipe.seed": {"seed": 5},
}


@pytest.mark.parametrize("key", list(CHANGES))
def test_a_changed_recipe_is_refused_with_the_difference_named(key, tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text), on_event=stop_after(0))
    change = dict(CHANGES[key])
    changed = recipe(change.pop("scheme", "W3A16g16"), text, **change)
    with pytest.raises(OutputError, match=rf"{key}.* was .*now .*--overwrite"):
        quantize(str(folder), tmp_path / "out", changed)
    assert quantize(str(folder), tmp_path / "out", changed, overwrite=True).verified


def test_a_changed_model_or_text_is_refused(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text), on_event=stop_after(0))
    save_tiny("llama", folder, seed=1)
    with pytest.raises(OutputError, match="model was"):
        quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text))
    save_tiny("llama", folder, seed=0)
    text.write_text(text.read_text().replace("fox", "cat"))
    with pytest.raises(OutputError, match="data was"):
        quantize(str(folder), tmp_path / "out", recipe("W3A16g16", text))


def test_two_runs_cannot_share_an_output(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")

    def second(event):
        if isinstance(event, BlockDone):
            with pytest.raises(OutputError, match="another omniq process"):
                quantize(str(folder), tmp_path / "out", recipe("W4A16", text, "rtn"))

    assert quantize(str(folder), tmp_path / "out", recipe("W4A16", text, "rtn"), on_event=second).verified


def test_a_folder_that_holds_something_is_left_alone(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for overwrite, rule in ((False, "not empty"), (True, "no config.json")):
        with pytest.raises(OutputError, match=rule):
            quantize(str(folder), out, recipe("W4A16", text, "rtn"), overwrite=overwrite)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_overwrite_replaces_a_checkpoint_only_when_the_new_one_is_done(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe("W4A16", text, "rtn"))
    before = (tmp_path / "out/model.safetensors").read_bytes()
    with pytest.raises(Stop):
        quantize(str(folder), tmp_path / "out", recipe("W2A16", text, "rtn"), overwrite=True, on_event=stop_after(1))
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    quantize(str(folder), tmp_path / "out", recipe("W2A16", text, "rtn"), overwrite=True)
    assert (tmp_path / "out/model.safetensors").read_bytes() != before


def test_a_checkpoint_that_reads_back_differently_is_not_published(tmp_path, text, monkeypatch):
    folder = save_tiny("llama", tmp_path / "model")
    original = job.write_folder

    def corrupting(result, *args):
        original(result, *args)
        path = result / "model.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-20000] ^= 1
        path.write_bytes(raw)

    monkeypatch.setattr(job, "write_folder", corrupting)
    with pytest.raises(VerificationError, match="do not use"):
        quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, "rtn"))
    assert not (tmp_path / "out").exists()


def test_a_plan_reads_headers_only_and_names_the_loaders(tmp_path, text):
    folder = save_tiny("llama", tmp_path / "model", torch.bfloat16)
    made = plan(str(folder), tmp_path / "out", recipe("W4A16g16", text))
    assert made.blocks == 2
    assert made.linears == 14
    assert made.bits_per_weight == 5.0
    assert any("transformers" in line for line in made.loaders)
    assert not (tmp_path / "out").exists()
    report = quantize(str(folder), tmp_path / "out", recipe("W4A16g16", text, "rtn"))
    assert made.size_after == pytest.approx(report.size_after, rel=0.1)


BAD = {
    "group size": (
        lambda f, t: (f, recipe("W4A16g48", t)),
        UsageError,
        "is not a multiple of group size 48.*divisor such as 16",
    ),
    "missing folder": (lambda f, t: (f.with_name("absent"), recipe("W4A16", t)), ModelError, "absent does not exist"),
    "quantised twice": (lambda f, t: (_quantized(f, t), recipe("W4A16", t)), ModelError, "already quantised"),
    "no table": (
        lambda f, t: (save_tiny("stablelm", f.with_name("s")), recipe("W4A4", t)),
        UnsupportedError,
        "needs? a table",
    ),
    "truncated": (lambda f, t: (_truncated(f), recipe("W4A16", t)), ModelError, "model.safetensors"),
    "not a number": (lambda f, t: (_nan(f), recipe("W4A16", t, "rtn")), ModelError, "NaN"),
    "no tokenizer": (lambda f, t: (_without(f, "tokenizer.json"), recipe("W4A16", t)), ModelError, "no tokenizer"),
    "no config": (lambda f, t: (_without(f, "config.json"), recipe("W4A16", t)), ModelError, "config.json"),
}


def _quantized(folder, text):
    quantize(str(folder), folder.with_name("done"), recipe("W4A16", text, "rtn"))
    return folder.with_name("done")


def _truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def _nan(folder):
    model = load_dense(folder, torch.float32)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    model.save_pretrained(folder)
    return folder


def _without(folder, name):
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_ends_with_a_sentence_and_nothing_under_the_final_name(case, tmp_path, text):
    make, error, rule = BAD[case]
    folder, bad = make(save_tiny("llama", tmp_path / "model"), text)
    with pytest.raises(error, match=rule) as caught:
        quantize(str(folder), tmp_path / "out", bad)
    assert isinstance(caught.value, OmniqError)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "out").exists()
