"""Tiny models as subjects of calibration, shared by the tests of the engine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tiny import tiny_model, tokens
from torch import Tensor, nn

from omniq.calibrate.endtoend import Trainer
from omniq.calibrate.finished import Finished
from omniq.calibrate.method import METHODS
from omniq.calibrate.run import QuantizedBlock, Settings, Streams, Subject, embed, run
from omniq.calibrate.view import BlockView, activation_grids
from omniq.experts import unfuse
from omniq.hf import build_skeleton
from omniq.models.adapter import adapter_for
from omniq.spec import LinearSpec
from omniq.structure import blocks_path, linears

QUICK: dict[str, dict[str, Any]] = {
    "rtn": {},
    "gptq": {},
    "awq": {"grid": 4},
    "omniquant": {"epochs": 1},
    "default": {"scaling": 4, "steps": 2},
    "fast": {"scaling": 4},
    "best": {"scaling": 0, "steps": 2},
}
"""Every preset, with options that make it quick."""
IDS = tokens(4, 24)


class Tiny:
    """A tiny model of one architecture, ready to calibrate in float32. dense: the original, with unfused experts."""

    def __init__(self, name: str, scheme: str, seed: int = 0) -> None:
        config, self.dense = tiny_model(name, seed)
        unfuse(self.dense)
        self.spec = LinearSpec.parse(scheme)
        adapter = adapter_for(config.model_type, config.to_dict())
        skeleton, _ = build_skeleton(copy.deepcopy(config))
        blocks = adapter.blocks if adapter else blocks_path(skeleton)
        names, _ = linears(skeleton, blocks, adapter.skip if adapter else ())
        params = dict(self.dense.named_parameters(remove_duplicate=False))
        self.subject = Subject(
            skeleton,
            blocks,
            lambda n: params[n].detach().clone(),
            dict.fromkeys(names, self.spec),
            adapter,
            torch.float32,
        )

    def blocks(
        self,
        preset: str,
        options: Mapping[str, Any] | None = None,
        ids: Tensor | None = None,
        settings: Settings | None = None,
    ) -> list[QuantizedBlock]:
        """Every block quantised by a preset on random tokens (B, T)."""
        settings = settings or Settings(batch=2, attention=self.spec.input)
        calls, streams = embed(self.subject, tokens(4, 24) if ids is None else ids, settings)
        return list(run(self.subject, METHODS[preset](**(options or {})), settings, calls, 0, streams))

    def view(self, index: int = 0, attention: bool = False) -> tuple[BlockView, Streams]:
        """Block `index` with real weights, on the original's stream, and its streams."""
        calls, streams = embed(self.subject, tokens(4, 24), Settings(batch=2))
        module = self.dense.get_submodule(self.subject.blocks)[index]
        for earlier in self.dense.get_submodule(self.subject.blocks)[:index]:
            with torch.no_grad():
                moved = torch.cat([calls.forward(0, earlier, part) for part in streams.original.split(2)])
            streams = Streams(moved, moved)
        prefix = f"{self.subject.blocks}.{index}."
        specs = {n.removeprefix(prefix): s for n, s in self.subject.specs.items() if n.startswith(prefix)}
        view = BlockView(
            index, prefix[:-1], module, specs, self.subject.adapter, self.subject.heads(), calls, streams.quantized,
            None, torch.float32, self.spec.input if attention else None, None, 0,
        )  # fmt: skip
        view.target = view.run(streams.original)
        return view, streams

    def assembled(self, blocks: list[QuantizedBlock]) -> nn.Module:
        """The original with every calibrated number put in its place."""
        model = copy.deepcopy(self.dense)
        with torch.no_grad():
            for block in blocks:
                for name, q, _ in block:
                    model.get_submodule(name).weight.copy_(q.dequantize())
                for name, value in block.floats.items():
                    model.get_parameter(name).copy_(value)
        return model


def quantized_forward(model: nn.Module, specs: Mapping[str, LinearSpec], ids: Tensor) -> Tensor:
    """Logits (B, T, V) of a model whose linears quantise their inputs as the specs say."""
    with torch.no_grad(), activation_grids(model, specs, None):
        return model(input_ids=ids, use_cache=False).logits


def trainer(name: str = "llama", scheme: str = "W3A16g16-asym") -> tuple[Tiny, Trainer]:
    """A tiny model rounded to nearest on IDS, ready to be tuned end to end."""
    tiny = Tiny(name, scheme)
    settings = Settings(batch=2, attention=tiny.spec.input)
    calls, streams = embed(tiny.subject, IDS, settings)
    blocks = tiny.blocks("rtn", ids=IDS, settings=settings)
    finished = [_finished(tiny, block) for block in blocks]
    return tiny, Trainer(tiny.subject, calls, settings, IDS, streams.original, blocks[-1].streams.original, finished)


def _finished(tiny: Tiny, block: QuantizedBlock) -> Finished:
    prefix = f"{tiny.subject.blocks}.{block.index}."
    linears = {name.removeprefix(prefix): q for name, q, _ in block}
    module = tiny.dense.get_submodule(prefix[:-1])
    floats = {n: p.detach() for n, p in module.named_parameters() if n.removesuffix(".weight") not in linears}
    return Finished(linears, floats, torch.float32)
