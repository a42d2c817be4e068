"""How a byte-level tokenizer cuts a text before it merges, and llama.cpp's name for that way of cutting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omniq.errors import UnsupportedError

Step = tuple[Any, ...]
BYTES, WORDS, DIGITS = ("bytes",), ("words",), ("digits",)
"""Turning bytes into letters; cutting as GPT-2 does; cutting every digit off."""
SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

PRETOKENIZERS: Mapping[tuple[tuple[Step, ...], bool], str] = {
    ((WORDS, BYTES), False): "gpt-2",
    ((DIGITS, WORDS, BYTES), False): "smollm",
    ((("split", rf"{SUFFIXES}|{LETTERS}|\p{{N}}|{SIGNS}|{ENDS}"), BYTES), False): "qwen2",
    ((("split", rf"{SUFFIXES}|{LETTERS}|\p{{N}}{{1,3}}|{SIGNS}|{ENDS}"), BYTES), True): "llama-bpe",
    ((("split", rf"{CASED}|\p{{N}}|{SLASHED}|{ENDS}"), BYTES), True): "tekken",
}
"""(steps, whether a word of the vocabulary is taken whole without merging) -> tokenizer.ggml.pre."""


def pretokenizer_name(definition: Mapping[str, Any] | None, whole_words: bool) -> str:
    """llama.cpp's name; UnsupportedError for a definition it has none for. definition: of tokenizer.json."""
    steps = tuple(_steps(definition or {}))
    name = PRETOKENIZERS.get((steps, whole_words))
    if name is None:
        raise UnsupportedError(
            f"the tokenizer cuts its text by {definition}{', words whole' if whole_words else ''}, and omniq knows no "
            f"name of llama.cpp for that (it knows {', '.join(PRETOKENIZERS.values())}); add it to "
            "omniq/gguf/pretokenizers.py, or convert the tokenizer with llama.cpp's own script"
        )
    return name


def _steps(definition: Mapping[str, Any]) -> Iterator[Step]:
    """A definition as steps that say no more than what it does."""
    kind = definition.get("type")
    if kind == "Sequence":
        for part in definition["pretokenizers"]:
            yield from _steps(part)
    elif kind == "ByteLevel" and not definition.get("add_prefix_space"):
        if definition.get("use_regex", True):
            yield WORDS
        yield BYTES
    elif kind == "Digits" and definition.get("individual_digits"):
        yield DIGITS
    elif kind == "Split" and definition["behavior"] == "Isolated" and not definition.get("invert"):
        yield ("split", definition["pattern"].get("Regex"))
    else:
        yield ("unknown", str(kind))
