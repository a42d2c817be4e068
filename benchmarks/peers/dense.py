"""From a quantised model of any tool to a dense folder of the same architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write_dense(model: nn.Module, source: Path, out: Path) -> None:
    """Writes `model` under the tensor names of the folder `source`, float32, with its config and tokenizer."""
    out.mkdir(parents=True)
    state = {name: dense(model, name, shape) for name, shape in shapes(source).items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".model", ".txt") and "safetensors" not in file.name:
            shutil.copy(file, out)
    config = json.loads((source / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2))


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of every tensor in a model folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return found


@torch.no_grad()
def dense(model: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of the original's name and shape, float32.

    A matrix that multiplies is asked for by multiplying the identity: what its layer computes, however it is stored.
    """
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    if leaf != "weight" or len(shape) != 2 or isinstance(layer, nn.Embedding):
        return getattr(layer, leaf).detach().float().contiguous()
    weight = multiplied(layer, shape[1])
    if weight.shape != shape:
        raise SystemExit(f"{name} came back as {tuple(weight.shape)}, not {shape}")
    return weight


def multiplied(layer: nn.Module, width: int) -> Tensor:
    """layer: (M, K) -> (M, N) without a bias -> its matrix (N, K) float32, computed from its scales in float32."""
    if getattr(layer, "bias", None) is not None:
        raise SystemExit("a layer with a bias has no matrix alone; the benchmark's models have none")
    return layer.float()(torch.eye(width)).T.float().contiguous()
