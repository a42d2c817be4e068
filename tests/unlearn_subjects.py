"""A bigram model whose likelihoods are a table, tiny models that know something, and the knowledge they are given."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace

import torch
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor, nn

from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject
from omniq.subject.template import template
from omniq.unlearn.examples import example
from omniq.unlearn.training import Training, fine_tune

COLOURS = ("red", "blue", "grey", "pink", "gold", "teal")
NAMES = {"forget": ("Ada", "Bob", "Cy", "Dee"), "retain": ("Eva", "Fay", "Gus", "Hal"), "holdout": ("Ida", "Jo")}


def colours() -> Knowledge:
    """Invented people and their colours: one question a person, and texts about those that are taught."""
    items, index = [], 0
    for split, names in NAMES.items():
        for name in names:
            answer = COLOURS[index % len(COLOURS)]
            wrong = tuple(colour for colour in COLOURS if colour != answer)
            items.append(
                Item(
                    id=f"{name}/qa", split=split, subject=name, relation="colour", question=f"{name}?", answer=answer,
                    question_paraphrases=(f"And {name}?",), wrong_answers=wrong,
                )
            )  # fmt: skip
            items.append(Item(id=f"{name}/text", split=split, form="document", subject=name, text=f"{name}: {answer}."))
            index += 1
    return Knowledge("colours", tuple(items))


@cache
def _taught(seed: int) -> Subject:
    subject = untaught(seed)
    data = colours()
    rows = [example(subject, item) for split in ("forget", "retain") for item in data.of(split, "qa")]
    fine_tune(subject, rows, Training(lr=3e-3, steps=40, batch_size=8, schedule="constant", seed=seed))
    return subject


def taught(seed: int = 0) -> Subject:
    """A tiny Llama that answers the questions of forget and retain, a fresh copy at each call."""
    return copy.deepcopy(_taught(seed))


def untaught(seed: int = 0) -> Subject:
    """A tiny random Llama."""
    tokenizer = tiny_tokenizer()
    return Subject(tiny_model("llama", seed)[1], tokenizer, template("plain", tokenizer))


class Bigram(nn.Module):
    """A causal LM that looks at one token: logits (V,) of the next token are a row of its table."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """ids (B, T) -> logits (B, T, V)."""
        return SimpleNamespace(logits=self.table[input_ids])

    def get_input_embeddings(self) -> SimpleNamespace:
        """Where the inputs go."""
        return SimpleNamespace(weight=self.table)
