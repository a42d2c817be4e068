"""Digests: short hashes by which a tensor, a weight or a stored file is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from omniq.header import TensorInfo
from omniq.qtensor import QTensor


def tensor_digest(tensor: Tensor) -> str:
    """A hash of a tensor's dtype, shape and values."""
    return parts_digest(TensorInfo(tensor.dtype, tuple(tensor.shape)), (tensor,))


def parts_digest(info: TensorInfo, parts: Iterable[Tensor]) -> str:
    """tensor_digest() of a tensor given in parts, one after another."""
    digest = hashlib.blake2b(f"{info.dtype}{info.shape}".encode(), digest_size=16)
    for part in parts:
        raw = part.detach().contiguous().cpu()
        digest.update(memoryview(raw.view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def weight_digest(q: QTensor) -> str:
    """A hash of the weight a QTensor stands for, in float32: what calibration computed with."""
    return tensor_digest(q.dequantize(torch.float32))


def content_digest(digests: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """A hash of named tensors, by their digests, and of the text kept with them."""
    named = [sorted(digests.items()), sorted(facts.items())]
    return hashlib.blake2b(json.dumps(named).encode(), digest_size=16).hexdigest()
