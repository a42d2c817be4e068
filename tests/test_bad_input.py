"""Bad input, through the command line: one sentence with the place and the fix, its exit code, and nothing left."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEXT
from torch import Tensor

import omniq
from omniq import hf, source
from omniq.cli import app
from omniq.errors import OutputError, UsageError
from omniq.recipe import Recipe

RTN = ("--preset", "rtn", "--group-size", "32", "--quiet")
GPTQ = ("--preset", "gptq", "--group-size", "32", "--samples", "2", "--length", "32", "--quiet")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line: (exit code, standard error); no traceback, nothing on standard output."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as leaving:
            app.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return leaving.value.code, captured.err

    return run


def configured(**changes: object) -> Callable[[Path], None]:
    """Changes entries of config.json; None removes one."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def rewritten(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """Changes the tensors whose name ends in `name`."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        changed = {key: change(t) if key.endswith(name) else t for key, t in tensors.items()}
        save_file(changed, folder / "model.safetensors")

    return apply


def with_nan(tensor: Tensor) -> Tensor:
    """One value is not a number."""
    tensor.view(-1)[3] = torch.nan
    return tensor


def cut(folder: Path) -> None:
    """Half of the weights' file is gone."""
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def overwritten(folder: Path) -> None:
    """The weights' file is something else."""
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def without_tokenizer(folder: Path) -> None:
    """No vocabulary."""
    (folder / "tokenizer.json").unlink()


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, r"model\.safetensors is truncated: .* copy it again"),
    "corrupt": (overwritten, r"not a safetensors file, so copy it again"),
    "NaN in a linear": (rewritten("1.self_attn.q_proj.weight", with_nan), r"1\.self_attn\.q_proj\.weight.* has NaN"),
    "NaN in the embedding": (rewritten("embed_tokens.weight", with_nan), r"'model\.embed_tokens\.weight' has NaN"),
    "NaN in the output head": (rewritten("lm_head.weight", with_nan), r"'lm_head\.weight' has NaN values; .* damaged"),
    "integers": (rewritten("q_proj.weight", lambda t: t.to(torch.int8)), r"stored as torch\.int8; expected float32"),
    "no vocabulary": (without_tokenizer, r"has no tokenizer: it needs one of tokenizer\.json, .* copy it"),
    "a classifier": (configured(architectures=["LlamaForSequenceClassification"]), r"not a causal language model"),
    "an encoder": (configured(model_type="bert", architectures=None), r"bert model, an encoder; .* decoder-only"),
    "an encoder-decoder": (configured(model_type="t5", is_encoder_decoder=True), r"encoder-decoder \(t5\)"),
    "quantised already": (configured(quantization_config={"quant_method": "awq"}), r"already quantised \(awq\); give"),
    "quantised in words": (
        configured(quantization_config="awq"),
        r"is 'awq'; expected a JSON object",
    ),
    "code of its own": (configured(model_type="own", auto_map={"AutoConfig": "c.C"}), r"read that code, then allow it"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_quantised_ends_in_a_sentence(case: str, model: Path, said) -> None:
    damage, words = MODELS[case]
    damage(model)
    code, error = said("quantize", model, "-o", model.parent / "out", *RTN)
    assert code == 3
    assert re.search(words, error)
    assert error.count("\n") == 1
    assert not (model.parent / "out").exists()


def test_nothing_at_all_is_left_when_the_model_is_refused_before_work_starts(model: Path, said) -> None:
    without_tokenizer(model)
    said("quantize", model, "-o", model.parent / "out", *RTN)
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_folder_that_is_not_there_and_a_hub_model_while_offline_are_told_apart(
    tmp_path: Path, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(source.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    code, error = said("quantize", tmp_path / "nowhere", "-o", tmp_path / "out", *RTN)
    assert (code, "nowhere does not exist; give a model folder" in error) == (3, True)
    code, error = said("quantize", "org/not-here", "-o", tmp_path / "out", *RTN)
    assert (code, "HF_HUB_OFFLINE is set" in error) == (3, True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--group-size", "48"), 2, "divisor such as 16, 32, which fits every layer"),
        (("--revision", "main"), 2, "a revision ('main') picks a version of a hub model"),
        (("--seed", str(2**70)), 2, "it must be between 0 and"),
        (("--calib", "nowhere.txt", *GPTQ), 4, "there is no file nowhere.txt"),
        (("--calib", "nowhere.txt", "--dry-run", *GPTQ), 4, "there is no file nowhere.txt"),
    ],
)
def test_options_that_do_not_fit_the_model_or_this_machine(
    words: tuple[str, ...], code: int, sentence: str, model: Path, said
) -> None:
    found, error = said("quantize", model, "-o", model.parent / "out", *RTN, *words)
    assert (found, sentence in error) == (code, True)
    assert [path.name for path in model.parent.iterdir()] == ["model"]


TEXTS = {
    "empty.txt": (b"", "holds no text"),
    "binary.txt": (bytes(range(256)), "is not UTF-8 text"),
    "short.txt": (b"a few words", "use sequences of at most"),
    "other.jsonl": (b'{"body": "x"}\n', "the column 'text' does not exist; the columns are body"),
    "number.jsonl": (b'{"text": 3}\n', "the column 'text' holds int"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_cannot_be_calibrated_on_ends_in_a_sentence(name: str, model: Path, said) -> None:
    content, words = TEXTS[name]
    (model.parent / name).write_bytes(content)
    code, error = said("quantize", model, "-o", model.parent / "out", *GPTQ, "--calib", model.parent / name)
    assert code == 4
    assert words in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in model.parent.iterdir()) == sorted(["model", name])


@pytest.mark.parametrize(
    ("place", "words", "sentence"),
    [
        ("used", (), "is not empty; choose another or give --overwrite"),
        ("used", ("--overwrite",), "is not a model; refusing to replace it"),
        ("model", ("--overwrite",), "is the model itself; choose another"),
        ("model/config.json", (), "is a file; give a folder"),
        ("model/config.json/out", (), "Not a directory; choose another output folder"),
    ],
)
def test_an_output_folder_that_cannot_be_used(
    place: str, words: tuple[str, ...], sentence: str, model: Path, said
) -> None:
    (model.parent / "used").mkdir()
    (model.parent / "used" / "letter.txt").write_text("dear")
    code, error = said("quantize", model, "-o", model.parent / place, *RTN, *words)
    assert code == OutputError.exit_code
    assert sentence in error
    assert (model.parent / "used" / "letter.txt").read_text() == "dear"
    assert (model / "model.safetensors").is_file()


@pytest.mark.parametrize("place", ["", ".", "/"])
def test_an_output_folder_without_a_name(
    place: str, model: Path, said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, error = said("quantize", model, "-o", place, *RTN)
    assert (code, "is no name of a folder" in error) == (OutputError.exit_code, True)


@pytest.mark.parametrize("damage", ["folder", [1], {"attention": {"bits": 4, "colour": "red"}}])
def test_a_damaged_record_of_omniq_in_a_checkpoint_is_refused(damage: object, model: Path, said) -> None:
    out = model.parent / "out"
    with pytest.raises(SystemExit):
        app.main(["quantize", str(model), "-o", str(out), *RTN])
    configured(omniq=damage)(out)
    code, error = said("generate", out, "hello")
    assert (code, "the entry 'omniq' in" in error) == (3, True)


def test_a_full_disk_while_a_gguf_file_is_unpacked_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from tiny_gguf import save_tiny_gguf

    save_tiny_gguf(tmp_path / "tiny.gguf")

    def full(self: object, folder: Path, **_: object) -> None:
        Path(folder).mkdir(parents=True)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(OutputError, match="No space left on device"):
        hf.resolve(str(tmp_path / "tiny.gguf"), work=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_gguf_file_without_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF, and so on")
    monkeypatch.setattr("omniq.hf.files.find_spec", lambda name: None)
    code, error = said("quantize", tmp_path / "tiny.gguf", "-o", tmp_path / "out", *RTN)
    assert (code, "needs the package gguf; install it with: pip install gguf" in error) == (3, True)


def test_unpacking_a_gguf_file_draws_no_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tiny_gguf import save_tiny_gguf

    save_tiny_gguf(tmp_path / "tiny.gguf")
    hf.quiet()
    capfd.readouterr()
    hf.resolve(str(tmp_path / "tiny.gguf"), work=tmp_path)
    assert capfd.readouterr() == ("", "")


RECIPES = {
    "seed: many": "seed is 'many'; expected a whole number",
    "seed: 1.5": "seed is 1.5; expected a whole number",
    "batch_size: true": "batch_size is True; expected a whole number",
    "attention: 'no'": "attention is 'no'; expected true or false",
    "preset: [rtn]": "preset is ['rtn']; expected text",
    "format: 7": "format is 7; expected text",
    "data: {source: 3}": "data: source is 3; expected text",
    "data: {samples: '4'}": "data: samples is '4'; expected a whole number",
    "preset: omniquant\noptions: {let: maybe}": "option let is 'maybe'; expected true or false or null",
    "preset: omniquant\noptions: {epochs: 2.5}": "option epochs is 2.5; expected a whole number",
    "preset: omniquant\noptions: {lwc_lr: .nan}": "option lwc_lr is nan; expected a number",
}


@pytest.mark.parametrize("line", RECIPES)
def test_a_value_of_the_wrong_type_in_a_recipe_is_named(line: str, tmp_path: Path, said) -> None:
    (tmp_path / "r.yaml").write_text(f"scheme: W4A16g32\n{line}\n")
    code, error = said("quantize", "m", "-o", tmp_path / "out", "--config", tmp_path / "r.yaml")
    assert code == 2
    assert RECIPES[line] in error
    assert error.count("\n") == 1


def test_python_gets_the_same_checks_as_the_command_line() -> None:
    from omniq.calibrate.data import DataSpec
    from omniq.spec import LinearSpec

    scheme = LinearSpec.parse("W4A16")
    for settings in (
        {"preset": 3},
        {"seed": True},
        {"attention": 1},
        {"data": {"source": "self"}},
        {"data": DataSpec(source=3)},
    ):
        with pytest.raises(UsageError, match="expected"):
            Recipe(scheme, **settings)
    with pytest.raises(UsageError, match="option epochs is 'many'; expected a whole number"):
        Recipe(scheme, "omniquant", {"epochs": "many"}).method()


def test_code_that_a_model_brings_goes_where_the_checkpoint_goes_and_runs_only_when_allowed(
    model: Path, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(model.parent / "modules"))
    (model / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own-test'\n"
    )
    (model / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    auto = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    configured(model_type="own-test", architectures=["OwnForCausalLM"], auto_map=auto)(model)
    out, text = model.parent / "out", model.parent / "text.txt"
    text.write_text(TEXT)
    words = ("quantize", model, "-o", out, *RTN, "--eval", text, "--eval-length", "32", "--eval-windows", "2")
    assert said(*words)[0] == 3
    assert said(*words, "--trust-remote-code") == (0, "")
    assert {"configuration_own.py", "modeling_own.py"} <= {path.name for path in out.iterdir()}
    assert said("generate", out, "hello")[0] == 3


def test_a_device_that_is_none_is_a_sentence_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device is 'tpu'; use auto, cpu, cuda or cuda:N"):
        omniq.load(tmp_path, device="tpu")
