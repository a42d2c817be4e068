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
from omniq.sums import write_sums

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py", *LICENCES)
NOT_COPIED = ("config.json", "model.safetensors.index.json", "report.json", "metrics.jsonl")


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
    result: Path, folder: Path, tensors: Iterator[Source], config: Mapping[str, Any], max_shard_bytes: int
) -> None:
    """Writes weights, their sums and config.json; copies files of tokenizer, generation, code and licence."""
    write_sums(result, write_model(result, tensors, max_shard_bytes))
    write_config(result, config)
    try:
        for path in copied_files(folder):
            write_bytes(result / path.name, _whole(path))
    except OSError as error:
        raise ModelError(f"cannot read the tokenizer files of {folder}: {error.strerror}") from None


def _whole(path: Path) -> bytes:
    """The bytes of a file; ModelError when there are fewer than it says it has."""
    raw = path.read_bytes()
    if len(raw) < path.stat().st_size:
        raise ModelError(f"{path} became shorter while it was read; copy the file again")
    return raw


def copied_files(folder: Path) -> list[Path]:
    """The files that a checkpoint made from `folder` takes over; ModelError for a link to a file elsewhere.

    A checkpoint is passed on, and with it what such a link, in a folder that somebody else made, points to. The hub
    library's cache keeps its files beside the snapshots that link to them.
    """
    whole = folder.resolve()
    home = whole.parent.parent if whole.parent.name == "snapshots" else whole
    found = {path for pattern in COPIED for path in folder.glob(pattern) if path.is_file()}
    for path in found:
        if not path.resolve().is_relative_to(home):
            raise ModelError(
                f"{path} is a link to {path.resolve()}, outside of the model's folder; put the file itself there, if "
                "you trust it, since it would be copied into the new checkpoint"
            )
    return sorted(path for path in found if path.name not in NOT_COPIED)


def write_config(result: Path, config: Mapping[str, Any]) -> None:
    """config.json."""
    write_text(result / "config.json", json.dumps(config, indent=2) + "\n")
