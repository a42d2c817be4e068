"""general: perplexity as the model's own loss gives it, and controls that hold the same words in another order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXT, tiny_model, tiny_tokenizer

from omniq.audit.base import EVALUATORS, Context, Measurement, Missing, Settings
from omniq.audit.evaluators.general import METRICS, shuffled
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject
from omniq.subject.template import template

SENTENCES = [part.strip() for part in TEXT.split(".") if part.strip()]
DOCUMENTS = tuple(Item(f"d{i}", "retain", "document", text=text) for i, text in enumerate(SENTENCES))
SETTINGS = Settings("test", {}, ("general",), text_tokens=64)


def subject() -> Subject:
    tokenizer = tiny_tokenizer()
    return Subject(tiny_model("llama")[1], tokenizer, template("plain", tokenizer), "tiny")


def observed(items: tuple[Item, ...], asked: Any = None, settings: Settings = SETTINGS) -> dict[tuple[str, str], Any]:
    """What the evaluator found, by metric and split."""
    nothing = {"folders": {"orig_fp": Path("model")}, "load": None, "trainable": None, "tell": print}
    context = Context(Knowledge("test", items), settings, "orig_fp", "orig_fp", **nothing)
    rows = EVALUATORS["general"].observe(asked or subject(), context)
    return {
        (row.metric.name, row.split) if isinstance(row, Measurement) else (row.metric, row.split): row for row in rows
    }


@dataclass
class Listener:
    """Stands in for a subject: remembers what it was asked to score, and finds every token equally likely."""

    texts: list[str] = field(default_factory=list)

    def score(self, pairs: list[tuple[str, str]], limit: int | None = None) -> list[Any]:
        self.texts += [text for _, text in pairs]
        return [SimpleNamespace(logp=np.full(3, math.log(0.25))) for _ in pairs]


def test_a_value_is_the_models_own_mean_loss_on_the_text() -> None:
    asked = subject()
    row = observed(DOCUMENTS, asked)["ppl", "retain"]
    assert row.items == tuple(item.id for item in DOCUMENTS)
    for value, text in zip(row.values, SENTENCES, strict=True):
        ids = torch.tensor([asked.start(text)[:64]])
        with torch.no_grad():
            assert value == pytest.approx(asked.model(input_ids=ids, labels=ids).loss.item(), abs=2e-5)


def test_a_text_is_scored_up_to_the_settings_limit() -> None:
    long = (Item("long", "retain", "document", text=TEXT),)
    asked = subject()
    value = observed(long, asked, replace(SETTINGS, text_tokens=8))["ppl", "retain"].values[0]
    ids = torch.tensor([asked.start(TEXT)[:8]])
    with torch.no_grad():
        assert value == pytest.approx(asked.model(input_ids=ids, labels=ids).loss.item(), abs=2e-5)


def test_the_controls_hold_the_same_words_in_another_order() -> None:
    listener = Listener()
    observed(DOCUMENTS, listener)
    plain, mixed, backwards = (listener.texts[i * len(SENTENCES) : (i + 1) * len(SENTENCES)] for i in range(3))
    assert plain == SENTENCES
    assert [text.split()[::-1] for text in backwards] == [text.split() for text in SENTENCES]
    assert [sorted(text.split()) for text in mixed] == [sorted(text.split()) for text in SENTENCES]
    assert all(text != original for text, original in zip(mixed, SENTENCES, strict=True))


def test_the_shuffled_order_depends_on_the_seed_and_the_item_alone() -> None:
    assert shuffled(TEXT, "0:a") == shuffled(TEXT, "0:a")
    assert len({shuffled(TEXT, key) for key in ("0:a", "1:a", "0:b")}) == 3
    both, alone = Listener(), Listener()
    observed(DOCUMENTS, both)
    observed(DOCUMENTS[1:], alone)
    assert set(alone.texts) < set(both.texts)


def test_questions_stand_in_for_documents_where_a_kept_split_has_none() -> None:
    listener = Listener()
    items = tuple(
        Item(split, split, question=f"Who owns the {split} house?", answer="Ada Grace")
        for split in ("forget", "retain", "world")
    )
    rows = observed(items, listener)
    assert listener.texts[0] == "Who owns the retain house? Ada Grace"
    assert not any("forget" in text for text in listener.texts)
    assert all(rows[metric.name, "forget"].reason == "test forget has no documents" for metric in METRICS)
    assert rows["ppl", "world"].values == pytest.approx([math.log(4)])


def test_documents_are_preferred_to_questions() -> None:
    listener = Listener()
    observed((*DOCUMENTS, Item("q", "retain", question="Who owns the house?", answer="Ada")), listener)
    assert not any("house" in text for text in listener.texts)


def test_texts_without_an_order_to_lose_are_left_out_and_counted() -> None:
    items = (*DOCUMENTS[:2], Item("short", "retain", "document", text="just three words"))
    row = observed(items)["ppl_reversed", "retain"]
    assert (row.items, row.excluded) == (("d0", "d1"), 1)
    assert "fewer than 4 words" in row.note
    alone = observed(items[2:])["ppl", "retain"]
    assert alone == Missing("ppl", "retain", "test retain has no text of 4 words or more")


def test_a_model_that_has_read_the_text_finds_it_likelier_than_out_of_order() -> None:
    asked = subject()
    model = asked.model.requires_grad_(True)
    ids = torch.tensor([asked.start(TEXT)[:96]])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    text = asked.tokenizer.decode(ids[0, -95:], skip_special_tokens=True)
    rows = observed((Item("t", "retain", "document", text=text),), asked, replace(SETTINGS, text_tokens=96))
    assert rows["ppl", "retain"].values[0] + 1 < rows["ppl_shuffled", "retain"].values[0]
    assert rows["ppl", "retain"].values[0] + 1 < rows["ppl_reversed", "retain"].values[0]


def test_every_metric_is_exp_of_a_mean_and_counts_for_no_side() -> None:
    assert {(metric.combine, metric.knowledge, metric.family) for metric in METRICS} == {("exp", 0, "utility")}
