"""Digests: short hashes by which a tensor, a weight or a stored file is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from omniq.qtensor import QTensor


def tensor_digest(tensor: Tensor) -> str:
    """A hash of a tensor's dtype, shape and values."""
    raw = tensor.detach().contiguous().cpu()
    digest = hashlib.blake2b(f"{raw.dtype}{tuple(raw.shape)}".encode(), digest_size=16)
    digest.update(memoryview(raw.view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def weight_digest(q: QTensor) -> str:
    """A hash of the weight a QTensor stands for, in float32: what calibration computed with."""
    return tensor_digest(q.dequantize(torch.float32))


def content_digest(tensors: Iterable[tuple[str, Tensor]], facts: Mapping[str, str]) -> str:
    """A hash of named tensors, in any order, and of the text kept with them."""
    named = sorted((name, tensor_digest(tensor)) for name, tensor in tensors)
    return hashlib.blake2b(json.dumps([named, sorted(facts.items())]).encode(), digest_size=16).hexdigest()
