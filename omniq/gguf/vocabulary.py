"""Vocabulary: a tokenizer of transformers as the keys by which llama.cpp makes the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from omniq.errors import ModelError, UnsupportedError
from omniq.gguf.metadata import Metadata
from omniq.gguf.pretokenizers import pretokenizer_name
from omniq.text import leading

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.cpp's kinds of token."""
SPACE = "▁"
UNMERGED = float(-(2**24))
"""Score of a token that no merge makes: below that of every merge."""
SPACES_AS_SIGN = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
SIGN_FIRST = {"type": "Prepend", "prepend": SPACE}
BYTE_TOKENS = frozenset(f"<0x{value:02X}>" for value in range(256))
NOT_NORMALISED = "llama.cpp leaves out what this tokenizer does first, bringing text into normal form C"


def vocabulary(tokenizer: Any, rows: int) -> tuple[Metadata, tuple[str, ...]]:
    """(keys, what the user should know). rows: V of the embedding, which may have more rows than there are tokens."""
    if not tokenizer.is_fast:
        raise UnsupportedError(
            "the tokenizer has no tokenizer.json, which GGUF's vocabulary is made of; save it anew with transformers"
        )
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    model = values["model"]
    if model["type"] != "BPE":
        raise UnsupportedError(f"the tokenizer is a {model['type']} model; omniq writes BPE tokenizers as GGUF")
    tokens = _tokens(model["vocab"], values["added_tokens"], rows)
    kinds = _kinds(tokens, values["added_tokens"], model.get("unk_token"))
    found, notes = (_pieces if model.get("byte_fallback") else _byte_level)(values, tokens, kinds)
    found |= {
        "tokenizer.ggml.tokens": [f"[PAD{index}]" if text is None else text for index, text in enumerate(tokens)],
        "tokenizer.ggml.token_type": kinds,
    }
    return found | _special(tokenizer), notes


def _tokens(vocab: Mapping[str, int], added: list[Mapping[str, Any]], rows: int) -> list[str | None]:
    """The text of each id below `rows`; None where there is none."""
    tokens: list[str | None] = [None] * rows
    for text, index in [*vocab.items(), *((token["content"], token["id"]) for token in added)]:
        if not 0 <= index < rows:
            raise ModelError(
                f"the tokenizer has token {text!r} as number {index}, but the embedding has {rows} rows; the two do "
                "not belong together"
            )
        tokens[index] = text
    return tokens


def _kinds(tokens: list[str | None], added: list[Mapping[str, Any]], unknown: str | None) -> list[int]:
    """llama.cpp's kind of each token."""
    kinds = [UNUSED if text is None else NORMAL for text in tokens]
    for token in added:
        # A run of the sign for a space is never found in a text itself; merges make it.
        plain = set(token["content"]) == {SPACE}
        kinds[token["id"]] = CONTROL if token["special"] else NORMAL if plain else USER_DEFINED
    if unknown in tokens:
        kinds[tokens.index(unknown)] = UNKNOWN
    return kinds


def _byte_level(
    values: Mapping[str, Any], tokens: list[str | None], kinds: list[int]
) -> tuple[Metadata, tuple[str, ...]]:
    """Keys of a tokenizer that merges letters standing for bytes; texts are cut first."""
    model, normaliser = values["model"], (values["normalizer"] or {}).get("type")
    if normaliser not in (None, "NFC"):
        raise UnsupportedError(f"the tokenizer changes its text by {values['normalizer']}, which llama.cpp does not do")
    name = pretokenizer_name(values["pre_tokenizer"], bool(model.get("ignore_merges")))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in _pairs(model["merges"])],
    }, (NOT_NORMALISED,) if normaliser else ()


def _pieces(values: Mapping[str, Any], tokens: list[str | None], kinds: list[int]) -> tuple[Metadata, tuple[str, ...]]:
    """Keys of a tokenizer that merges characters, spaces as a sign, and falls back to bytes.

    llama.cpp knows no merges here but a score for each token, and merges into the token of the highest score. The
    rank of a token's first merge, negated, is that score.
    """
    prefix = _prefix(values)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_pairs(values["model"]["merges"])):
        ranks.setdefault(left + right, rank)
    for index, text in enumerate(tokens):
        if text in BYTE_TOKENS:
            kinds[index] = BYTE
    scores = [float(-ranks[text]) if text in ranks else UNMERGED for text in tokens]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": prefix,
    }, ()


def _prefix(values: Mapping[str, Any]) -> bool:
    """Whether a text begins with the sign for a space; UnsupportedError where the tokenizer changes it otherwise."""
    steps, cut = _normalisers(values["normalizer"]), values["pre_tokenizer"]
    if (cut or {}).get("type") == "Metaspace" and cut["replacement"] == SPACE and not steps and not cut.get("split"):
        return cut.get("prepend_scheme", "always") != "never"
    # A cut at spaces finds none once they are signs.
    idle = cut is None or (cut["type"] == "Split" and cut["pattern"] == {"String": " "})
    if idle and steps in ([SPACES_AS_SIGN], [SIGN_FIRST, SPACES_AS_SIGN]):
        return SIGN_FIRST in steps
    raise UnsupportedError(
        f"the tokenizer changes its text by {values['normalizer']} and cuts it by {cut}, and omniq knows no setting of "
        "llama.cpp for that; convert the tokenizer with llama.cpp's own script"
    )


def _normalisers(definition: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if definition is None:
        return []
    return list(definition["normalizers"]) if definition["type"] == "Sequence" else [definition]


def _pairs(merges: list[Any]) -> Iterator[tuple[str, str]]:
    """The pairs of a list of merges, each a pair or, as older files have it, a string."""
    return (tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in merges)


def _special(tokenizer: Any) -> Metadata:
    """Keys of the special tokens, of what is put around a text, and of the chat template."""
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    found: Metadata = {f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items() if index is not None}
    plain = tokenizer("a", add_special_tokens=False).input_ids
    first, whole = leading(tokenizer), tokenizer("a", add_special_tokens=True).input_ids
    last = list(whole[len(first) + len(plain) :])
    if first not in ([], [ids["bos"]]) or last not in ([], [ids["eos"]]):
        raise UnsupportedError(
            f"the tokenizer puts the tokens {first} before a text and {last} after it; llama.cpp puts BOS and EOS there"
        )
    found |= {"tokenizer.ggml.add_bos_token": bool(first), "tokenizer.ggml.add_eos_token": bool(last)}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return found | ({"tokenizer.chat_template": template} if template else {})
