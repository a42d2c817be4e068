"""The peers by the name their rows carry: which module runs them, in which environment."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

PEERS = {
    "auto-round": "auto_round",
    "gptqmodel-gptq": "gptqmodel",
    "gptqmodel-gptaq": "gptqmodel",
    "llmcompressor-gptq": "llmcompressor",
    "llmcompressor-awq": "llmcompressor",
    "hqq": "hqq",
    "torchao": "torchao",
}
"""Name -> module. EfficientQAT has none: it is not on the package index and quantises on a GPU alone."""


def module(name: str) -> ModuleType:
    """The module of a peer.

    NAMES: packages whose versions a row carries. IMPORTED: what is loaded before the clock runs. REQUIRES: what pip
    installs. ENVIRONMENT: variables it needs. refuse(spec): why it has no such grid, or None. quantise(name, task,
    tokens): does the work, saves to task.saved where it can, and returns how to load that.
    """
    return import_module(f"peers.{PEERS[name]}")


def python(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment below `folder`, which peers/install.py makes."""
    return folder / PEERS[name] / "bin" / "python"
