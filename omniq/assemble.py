"""The finished checkpoint folder: packed linears from the work folder, everything else copied from the source model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniq.checkpoint import Reader, without_nan
from omniq.errors import OutputError
from omniq.qtensor import QTensor
from omniq.shards import Source, write_model, write_text

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
NOT_COPIED = ("config.json", "model.safetensors.index.json")


def tensor_digest(tensor: Tensor) -> str:
    """A hash of a tensor's dtype, shape and values."""
    raw = tensor.detach().contiguous().cpu()
    head = f"{raw.dtype}{tuple(raw.shape)}".encode()
    return hashlib.blake2b(head + raw.view(-1).view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


def weight_digest(q: QTensor) -> str:
    """A hash of the weight a QTensor stands for, in float32: what calibration computed with."""
    return tensor_digest(q.dequantize(torch.float32))


def entries(source: Reader, blocks: list[Reader], replaced: set[str]) -> Iterator[Source]:
    """Every tensor of the finished checkpoint: the source's own but for `replaced`, then those of the blocks."""
    for name in source.names():
        if name not in replaced:
            yield name, source.info(name), partial(_copied, source, name)
    for reader in blocks:
        for name in reader.names():
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
                    shutil.copyfile(path, result / path.name)
    except OSError as error:
        raise OutputError(f"cannot copy the tokenizer files of {folder} to {result}: {error.strerror}") from None


def write_texts(result: Path, config: Mapping[str, Any], card: str) -> None:
    """config.json and the model card."""
    write_text(result / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(result / "README.md", card)
