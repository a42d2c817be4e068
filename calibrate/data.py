"""Calibration tokens: from a file, a hub data set or the model itself, with a cache keyed by all that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from omniq.calibrate.cache import cached
from omniq.errors import DataError, UsageError
from omniq.text import Document, documents, in_template, is_local, leading, prefix

SELF = "self"
GIVEN = "(given)"
"""The source of texts or token ids that a Python caller hands over; it can be no file and no hub id."""


@dataclass(frozen=True)
class DataSpec:
    """source: 'self' (sampled from the model), a .txt, .jsonl or .parquet file, or a hub data set as 'id[:config]'.

    samples: number of sequences B. length: tokens per sequence T. seed: of the windows drawn. split: for hub data
    sets. column: for hub data sets and tables.
    """

    source: str = SELF
    samples: int = 128
    length: int = 2048
    seed: int = 0
    split: str = "train"
    column: str = "text"

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("length", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"calibration {name} is {value!r}; it must be a whole number, {least} or more")


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """ids: (B, T) int64, no padding. fingerprint: hash of ids. description: where they came from, for people.

    notice: what else the user should know about this run's tokens, or None.
    """

    ids: Tensor
    fingerprint: str
    description: str
    notice: str | None = None


class Tokenizer(Protocol):
    """What this module needs of a tokenizer."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """An object with input_ids, a list of ints."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""

    def apply_chat_template(self, messages: list[dict[str, Any]], *, tokenize: bool) -> str:
        """The conversation as one text; called for tables of messages alone."""


Generate = Callable[[int, int, int], Tensor]
"""(samples B, length T, seed) -> ids (B, T) sampled from the model."""


def tokens(
    spec: DataSpec,
    tokenizer: Tokenizer,
    *,
    model_key: str,
    generate: Generate | None,
    cache: Path | None,
    texts: Sequence[str] | None = None,
) -> CalibrationData:
    """The calibration tokens that `spec` asks for; `model_key` identifies the model that `generate` samples from.

    Equal arguments give equal tokens. `cache`: a folder that keeps them between runs, or None. texts: documents in
    place of those of spec.source.
    """
    if spec.source == SELF:
        parts: dict[str, Any] = {"model": model_key}
        origin = "text that the model wrote itself (no data set was given)"
        text, make = "", partial(_generated, spec, generate)
    else:
        text, whole = calibration_text(spec, tokenizer, texts)
        parts, origin = {"text": digest(text.encode())}, f"{'' if whole else 'the beginning of '}{_place(spec)}"
        make = partial(_from_text, spec, tokenizer, text, whole)
    shape = (spec.samples, spec.length)
    parts |= {
        "tokenizer": tokenizer_identity(tokenizer, text),
        "shape": shape,
        "seed": spec.seed,
        "leading": leading(tokenizer),
    }
    ids, notice = cached(cache, digest(json.dumps(parts, sort_keys=True).encode()), shape, make)
    description = f"{spec.samples} sequences of {spec.length} tokens (seed {spec.seed}) from {origin}"
    return CalibrationData(ids, ids_digest(ids), description, notice)


def given_ids(ids: Tensor) -> CalibrationData:
    """Token ids (B, T) int64 as a Python caller hands them over, used as they are."""
    if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise DataError(
            f"the token ids are {ids.dtype} of shape {tuple(ids.shape)}; calibration needs torch.int64 of shape "
            "(B, T): B sequences of T tokens each, 2 or more"
        )
    ids = ids.to("cpu").contiguous()
    description = f"{ids.shape[0]} sequences of {ids.shape[1]} tokens, given as token ids"
    return CalibrationData(ids, ids_digest(ids), description)


def check_vocabulary(ids: Tensor, vocab: int) -> None:
    """Raises DataError when a token id of `ids` (B, T) is not one of the model's `vocab` tokens."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        raise DataError(
            f"the token ids hold {low if low < 0 else high}, but the model's tokens are 0 to {vocab - 1}; "
            "encode the text with the tokenizer of this model"
        )


def ids_digest(ids: Tensor) -> str:
    """The fingerprint of token ids (B, T)."""
    return digest(json.dumps(tuple(ids.shape)).encode() + ids.numpy().tobytes())


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def tokenizer_identity(tokenizer: Tokenizer, text: str) -> str:
    """A hash of the tokenizer's class, its vocabulary, and what it makes of the beginning of `text`.

    The last part tells apart tokenizers with one vocabulary that split or normalise differently.
    """
    probe = token_ids(tokenizer, text[:4096]).tolist() if text else []
    parts = [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items()), probe]
    return digest(json.dumps(parts).encode())


def token_ids(tokenizer: Tokenizer, text: str) -> Tensor:
    """text -> ids (n,) int64; no special tokens are added."""
    return torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)


def calibration_text(spec: DataSpec, tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> tuple[str, bool]:
    """The text of `spec.source` or else `texts`, documents joined by blank lines, and whether it is the whole of it.

    Of a large source only the beginning is used: 32 characters for each token needed, and at least four million.
    """
    limit = max(2**22, 32 * spec.samples * spec.length)
    found = iter(texts) if texts is not None else documents(spec.source, spec.column, spec.split)
    text, more = prefix(_texts(found, tokenizer), limit)
    if not text.strip():
        raise DataError(f"{_place(spec)} holds no text; give a file with text, or use 'self'")
    return text[:limit], not more and len(text) <= limit


def _texts(docs: Iterator[Document], tokenizer: Tokenizer) -> Iterator[str]:
    """Conversations become text by the tokenizer's chat template."""
    for doc in docs:
        yield doc if isinstance(doc, str) else in_template(tokenizer, doc)


def drawn_windows(ids: Tensor, spec: DataSpec, whole: bool = True) -> Tensor:
    """ids (n,) -> (B, T): windows at random places, none overlapping, in random order; equal seeds, equal windows."""
    need, have = spec.samples * spec.length, len(ids)
    if have < need:
        fits = have // spec.length
        fix = f"use at most {fits} samples of that length" if fits else f"use sequences of at most {have} tokens"
        raise DataError(
            f"{'' if whole else 'the beginning of '}{_place(spec)} holds {have} tokens, but {spec.samples} samples of "
            f"{spec.length} tokens need {need}; {fix}, or give more text"
        )
    random = torch.Generator().manual_seed(spec.seed)
    # Free places for the gaps in front of the windows: sorted draws keep the windows in order and apart.
    gaps = torch.randint(have - need + 1, (spec.samples,), generator=random).sort().values
    starts = gaps + torch.arange(spec.samples) * spec.length
    starts = starts[torch.randperm(spec.samples, generator=random)]
    return ids[starts.unsqueeze(1) + torch.arange(spec.length)]


def _from_text(spec: DataSpec, tokenizer: Tokenizer, text: str, whole: bool) -> Tensor:
    """(B, T) drawn from the text, each sequence after the tokenizer's own BOS if it has one."""
    first = torch.tensor(leading(tokenizer), dtype=torch.int64)
    drawn = drawn_windows(token_ids(tokenizer, text), replace(spec, length=spec.length - len(first)), whole)
    return torch.cat([first.expand(len(drawn), -1), drawn], dim=1)


def _generated(spec: DataSpec, generate: Generate | None) -> Tensor:
    """(B, T) from the model itself."""
    if generate is None:
        raise DataError("calibration source 'self' needs a model that can generate text; give a file with --calib FILE")
    return generate(spec.samples, spec.length, spec.seed).to("cpu", torch.int64)


def _place(spec: DataSpec) -> str:
    """The source in words."""
    if spec.source == GIVEN:
        return "the given text"
    return spec.source if is_local(spec.source) else f"the hub data set {spec.source}, split {spec.split}"
