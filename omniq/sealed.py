"""Sealed files: safetensors that carry a digest of their own content, of their name and of the run they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniq.checkpoint import Reader
from omniq.digests import content_digest, parts_digest
from omniq.errors import ModelError
from omniq.header import TensorInfo
from omniq.shards import Values, tensor_info, write_safetensors

DIGEST = "digest"
"""Where a file's own digest is kept, beside its facts."""


class Seal:
    """Writes the files of one run and knows them again. run: what the run is, as a hash."""

    def __init__(self, run: str) -> None:
        self.run = run

    def write(self, path: Path, tensors: Mapping[str, Tensor | Any], facts: Mapping[str, str]) -> None:
        """Writes tensors and facts with their digest. Hidden states on disk are tensors too, read a part at a time."""
        infos = {name: _info(values) for name, values in tensors.items()}
        digests = {name: parts_digest(infos[name], _parts(values)) for name, values in tensors.items()}
        sources = [(name, info, partial(_itself, tensors[name])) for name, info in infos.items()]
        write_safetensors(path, sources, {**facts, DIGEST: self._digest(path, digests, facts)})

    def intact(self, path: Path) -> bool:
        """Whether a file holds what this run wrote under that name."""
        try:
            reader = Reader(path)
            facts = reader.metadata()
            known = facts.pop(DIGEST, None)
            digests = {name: parts_digest(reader.info(name), reader.parts(name)) for name in reader.names()}
            return known == self._digest(path, digests, facts)
        except ModelError:
            return False

    def _digest(self, path: Path, digests: Mapping[str, str], facts: Mapping[str, str]) -> str:
        return content_digest(digests, {**facts, "file": path.name, "run": self.run})


def facts_of(path: Path) -> dict[str, str]:
    """What was written beside the tensors of a sealed file; nothing where there is no such file."""
    facts = Reader(path).metadata() if path.is_file() else {}
    return {key: value for key, value in facts.items() if key != DIGEST}


def _itself(values: Values) -> Values:
    return values


def _info(values: Any) -> TensorInfo:
    return tensor_info(values) if isinstance(values, Tensor) else TensorInfo(torch.float32, tuple(values.shape))


def _parts(values: Values) -> Iterable[Tensor]:
    return (values,) if isinstance(values, Tensor) else values
