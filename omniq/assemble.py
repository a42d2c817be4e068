"""The finished checkpoint folder: packed linears from the work folder, everything else copied from the source model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from omniq.checkpoint import Reader, without_nan
from omniq.errors import ModelError
from omniq.shards import Source, write_bytes, write_model, write_text

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
NOT_COPIED = ("config.json", "model.safetensors.index.json")


def entries(source: Reader, blocks: list[Reader], replaced: set[str]) -> Iterator[Source]:
    """Every tensor of the finished checkpoint: the source's own but for `replaced`, then those of the blocks.

    Where two of the blocks' files hold a tensor, the later one's counts.
    """
    for name in source.names():
        if name not in replaced:
            yield name, source.info(name), partial(_copied, source, name)
    latest = {name: reader for reader in blocks for name in reader.names()}
    for name, reader in latest.items():
        yield name, reader.info(name), partial(reader.read, name)


def _copied(source: Reader, name: str) -> Tensor:
    """A tensor that no block replaced, which nothing has looked at before."""
    return without_nan(source.read(name), name)


def write_folder(
    result: Path, folder: Path, tensors: Iterator[Source], config: Mapping[str, Any], card: str, max_shard_bytes: int
) -> None:
    """Writes weights, config.json and the model card; copies files of tokenizer, generation and code from `folder`."""
    write_model(result, tensors, max_shard_bytes)
    write_texts(result, config, card)
    try:
        for pattern in COPIED:
            for path in folder.glob(pattern):
                if path.is_file() and path.name not in NOT_COPIED:
                    write_bytes(result / path.name, path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read the tokenizer files of {folder}: {error.strerror}") from None


def write_texts(result: Path, config: Mapping[str, Any], card: str) -> None:
    """config.json and the model card."""
    write_text(result / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(result / "README.md", card)
