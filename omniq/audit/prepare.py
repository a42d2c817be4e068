"""Before anything is measured: do the models belong together, and what does the original know at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omniq.audit.metrics.answers import contains
from omniq.errors import DataError, ModelError
from omniq.knowledge.items import Knowledge, drawn
from omniq.source import config_values
from omniq.subject.model import Subject

SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
SAMPLE = 50
KNOWN_TOKENS = 24
SPARE = 4
"""Questions put for each that is wanted: the original will not answer all."""


def check_same_shape(original: Path, others: Sequence[Path]) -> None:
    """Raises ModelError unless all folders hold models of one shape."""
    wanted = config_values(original)
    for folder in others:
        found = config_values(folder)
        for key in SHAPE:
            if found.get(key) != wanted.get(key):
                raise ModelError(
                    f"{folder} has {key} {found.get(key)}, but the original {original} has {wanted.get(key)}; "
                    "an audit compares a model with what was made from it"
                )


def check_same_tokens(knowledge: Knowledge, original: tuple[Path, Any], other: tuple[Path, Any]) -> None:
    """Raises ModelError where two tokenizers turn a text of the data into different ids."""
    for item in knowledge.items[:: max(1, len(knowledge.items) // SAMPLE)]:
        text = item.question or item.prefix or item.text
        ours, theirs = (side[1](text, add_special_tokens=False).input_ids for side in (original, other))
        if ours != theirs:
            raise ModelError(
                f"the tokenizer of {other[0]} reads {text[:40]!r} differently from that of {original[0]}; "
                "models can be compared token by token only with the same one: copy the original's tokenizer files"
            )


def known_only(knowledge: Knowledge, subject: Subject, wanted: int | None = None, seed: int = 0) -> Knowledge:
    """Without the items of `knowledge.known_only` splits whose answer the original does not give when asked.

    wanted: so many questions will be enough, so that not all have to be put.
    """
    asked = [item for item in knowledge.of(form="qa") if item.split in knowledge.known_only]
    asked = drawn(asked, len(asked) if wanted is None else SPARE * wanted, random.Random(seed))
    if not asked:
        return knowledge
    written = subject.generate([subject.template.prompt(item.question) for item in asked], KNOWN_TOKENS)
    known = {item.id for item, text in zip(asked, written, strict=True) if contains(text, item.answer)}
    if not known:
        raise DataError(
            f"{knowledge.name}: the original answers none of the {len(asked)} questions, so none can be lost; "
            "choose other --data"
        )
    note = f"The original answers {len(known)} of {len(asked)} questions of {knowledge.name}; only those are kept."
    subjects = {(item.subject, item.relation) for item in asked if item.id in known}
    kept = tuple(
        item
        for item in knowledge.items
        if item.split not in knowledge.known_only
        or (item.id in known if item.form == "qa" else (item.subject, item.relation) in subjects)
    )
    return replace(knowledge, items=kept, notes=(*knowledge.notes, note))
