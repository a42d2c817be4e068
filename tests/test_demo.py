"""Demo models come out of installed packages, without importing them, and only with the published content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tokens
from tiny_gguf import save_tiny_gguf
from torch import nn

from omniq import demo, hf
from omniq.demo import DEMOS, Demo, fetch_demo, packaged_files
from omniq.errors import ModelError, OutputError, UsageError
from omniq.source import file_digest

PACKAGES = ("tiny_gguf_demo_part1", "tiny_gguf_demo_part2")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Installs a tiny demo named 'tiny', its GGUF file split over two packages that cannot be imported; the model."""
    whole = tmp_path / "whole.gguf"
    model = save_tiny_gguf(whole)
    raw = whole.read_bytes()
    for package, part in zip(PACKAGES, (raw[:1000], raw[1000:]), strict=True):
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / package / "data" / "part").write_bytes(part)
    monkeypatch.syspath_prepend(tmp_path)
    parts = tuple((package, "data/part") for package in PACKAGES)
    monkeypatch.setitem(demo.DEMOS, "tiny", Demo("a test", "pip install tiny", parts, file_digest(whole)))
    return model


@torch.no_grad()
def test_a_packaged_model_becomes_a_complete_folder(packaged: nn.Module, tmp_path: Path) -> None:
    out = fetch_demo(tmp_path / "out" / "model", "tiny")
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in out.iterdir()
    }
    torch.testing.assert_close(hf.load_dense(out, torch.float32)(tokens()).logits, packaged(tokens()).logits)
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_a_model_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert fetch_demo(tmp_path, "smollm2") == tmp_path
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(OutputError, match=r"exists and is not a model folder"):
        fetch_demo(tmp_path, "smollm2")


@pytest.mark.parametrize("name", DEMOS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = tuple((f"absent_{package}", file) for package, file in DEMOS[name].parts)
    monkeypatch.setitem(demo.DEMOS, name, replace(DEMOS[name], parts=parts))
    with pytest.raises(ModelError, match=r"not installed; run: pip install "):
        fetch_demo(tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_a_damaged_package_is_refused_and_leaves_nothing(packaged: nn.Module, tmp_path: Path) -> None:
    part = tmp_path / PACKAGES[1] / "data" / "part"
    part.write_bytes(part.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(
        ModelError, match=r"the demo model tiny is damaged \(sha256 [0-9a-f]{64}\); reinstall: pip install tiny"
    ):
        fetch_demo(tmp_path / "out" / "model", "tiny")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_demo_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no demo model 'llama'; known: smollm2, gemma3"):
        fetch_demo(tmp_path / "out", "llama")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("name", "answer"), [("smollm2", "Paris"), ("gemma3", "France")])
def test_a_real_demo_model_writes_sense(name: str, answer: str, tmp_path: Path) -> None:
    try:
        packaged_files(name)
    except ModelError as reason:
        pytest.skip(str(reason))
    out = fetch_demo(tmp_path / name, name)
    model, tokenizer = hf.load_dense(out), hf.load_tokenizer(out)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0][ids.input_ids.shape[1] :])
    assert answer in text
