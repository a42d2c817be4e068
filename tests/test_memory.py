"""Memory: one block at a time is real, in calibration and in verification, and no more streams live than needed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import TEXT, tiny_model, tiny_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from omniq import pipeline
from omniq.calibrate.data import DataSpec
from omniq.calibrate.methods.gptq import GPTQ
from omniq.checkpoint import Reader
from omniq.events import BlockDone
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

BLOCKS, SAMPLES, LENGTH, HIDDEN = 3, 6, 20, 64


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bfloat16 model of three blocks, with a text beside it."""
    monkeypatch.setattr(pipeline, "cache_folder", lambda: tmp_path / "cache")
    config, _ = tiny_model("llama")
    config.num_hidden_layers, config.layer_types = BLOCKS, None
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"{i}: {TEXT}" for i in range(12)))
    return tmp_path / "model"


def recipe(model: Path, preset: str) -> Recipe:
    options = {"omniquant": {"epochs": 1}, "awq": {"grid": 2}}.get(preset, {})
    data = DataSpec(str(model.with_name("text.txt")), SAMPLES, LENGTH)
    return Recipe(LinearSpec.parse("W4A16g16"), preset, options, data, batch_size=2)


@pytest.fixture
def skeleton(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Holds the skeleton that the run works on, as soon as there is one."""
    held: list[nn.Module] = []
    opening = pipeline.open_model

    def opened(*args, **kwargs):
        model = opening(*args, **kwargs)
        held.append(model.skeleton)
        return model

    monkeypatch.setattr(pipeline, "open_model", opened)
    return held


@pytest.fixture
def states(skeleton: list[nn.Module]) -> Iterator[set[frozenset[str]]]:
    """Every combination of model parts that held real values while some linear, norm or embedding was called."""
    seen: set[frozenset[str]] = set()

    def look(module: nn.Module, _args: object) -> None:
        if skeleton and not list(module.children()):
            names = (name.split(".") for name, param in skeleton[0].named_parameters() if not param.is_meta)
            seen.add(frozenset(".".join(parts[:3]) if "layers" in parts else ".".join(parts[:-1]) for parts in names))

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    yield seen
    handle.remove()


@pytest.mark.parametrize("preset", ["gptq", "awq", "omniquant"])
def test_the_embedding_and_then_each_block_alone_hold_real_values(preset, model, states, skeleton, tmp_path):
    quantize(str(model), tmp_path / "out", recipe(model, preset))
    blocks = {frozenset([f"model.layers.{index}"]) for index in range(BLOCKS)}
    assert states == {frozenset(["model.embed_tokens", "model.norm"])} | blocks
    assert all(param.is_meta for param in skeleton[0].parameters())


def test_verification_too_has_one_block_at_a_time(model, states, tmp_path, monkeypatch):
    verify = pipeline.Job.verify

    def watched(self, *args):
        states.clear()
        verify(self, *args)

    monkeypatch.setattr(pipeline.Job, "verify", watched)
    quantize(str(model), tmp_path / "out", recipe(model, "gptq"))
    assert states == {frozenset([f"model.layers.{index}"]) for index in range(BLOCKS)}


@pytest.mark.parametrize("preset", ["rtn", "gptq", "omniquant"])
def test_of_what_is_stored_one_linear_at_most_is_in_memory_besides_the_block(preset, model, tmp_path, monkeypatch):
    """Tensors as they were read: none may outlive the reading of the next but the leaves of one linear."""
    read, alive, most = Reader.read, weakref.WeakSet(), [0]

    def reading(self, name):
        tensor = read(self, name)
        most[0] = max(most[0], sum(t.nbytes for t in alive))
        if name not in ("original", "quantized"):  # streams, not weights
            alive.add(tensor)
        return tensor

    monkeypatch.setattr(Reader, "read", reading)
    quantize(str(model), tmp_path / "out", recipe(model, preset))
    weights = [p for name, p in tiny_model("llama")[1].named_parameters() if "proj" in name]
    assert most[0] <= 2 * max(p.numel() for p in weights)


def streams() -> int:
    """How many different tensors of the size of a stream there are."""
    found = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == (SAMPLES, LENGTH, HIDDEN)]
    return len({t.data_ptr() for t in found})


def test_a_method_finds_two_streams_in_memory_and_no_more(model, tmp_path, monkeypatch):
    """What enters the block and what should leave it; and when a block is done, what enters the next."""
    block, counts = GPTQ.block, []

    def counted(self, view):
        counts.append(streams())
        return block(self, view)

    def listener(event):
        if isinstance(event, BlockDone):
            counts.append(streams())

    monkeypatch.setattr(GPTQ, "block", counted)
    quantize(str(model), tmp_path / "out", recipe(model, "gptq"), on_event=listener)
    assert counts == [2] * (2 * BLOCKS)
