"""Subjects, knowledge and contexts for tests of evaluators: a stub that says what it is told, a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tiny import tiny_model, tiny_tokenizer

from omniq.audit.base import Context, Found, Measurement, Missing, Settings
from omniq.errors import UsageError
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject, before_any
from omniq.subject.scoring import Scored
from omniq.subject.template import Template, plain_prompt, template

PLAIN = Template("plain", plain_prompt, " ", "</s>")
SETTINGS = Settings(name="test", items={}, evaluators=(), answer_tokens=24, text_tokens=96, resamples=200)


class WordTokenizer:
    """A token for every word between spaces."""

    eos_token, bos_token_id, eos_token_id, pad_token_id, chat_template = "</s>", None, None, None, None

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[self.words.setdefault(word, len(self.words)) for word in text.split()])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The words of the ids, with single spaces."""
        names = list(self.words)
        return " ".join(names[i] for i in ids)


def uniform(_: str, answer: str) -> list[tuple[float, int]]:
    """Every word of an answer has probability 1/2 and rank 1."""
    return [(float(np.log(0.5)), 1)] * len(answer.split())


@dataclass(eq=False)
class StubSubject:
    """written: prompt -> what it writes. scores: (prompt, answer) -> (log-probability, rank) of every answer token.

    asked: the prompts it was asked to continue; scored: the pairs it was asked to score, both in order.
    """

    written: Callable[[str], str] = lambda prompt: ""
    scores: Callable[[str, str], Sequence[tuple[float, int]]] = uniform
    template: Template = PLAIN
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    asked: list[str] = field(default_factory=list)
    scored: list[tuple[str, str]] = field(default_factory=list)

    def tokens(self, text: str) -> list[int]:
        """An id for every word."""
        return self.tokenizer(text).input_ids

    def score(self, pairs: Sequence[tuple[str, str]], moments: bool = False, limit: int | None = None) -> list[Scored]:
        """What `scores` says of every pair, cut at `limit` words of prompt and answer together."""
        self.scored += pairs
        return [self._one(*pair, limit) for pair in pairs]

    def _one(self, prompt: str, answer: str, limit: int | None) -> Scored:
        kept = None if limit is None else max(1, limit - len(prompt.split()))
        logp, rank = zip(*self.scores(prompt, answer)[:kept], strict=True)
        return Scored(np.arange(len(logp)), np.array(logp), np.array(rank))

    def ask(self, questions: Sequence[tuple[str, str]]) -> list[Scored]:
        """As score, put through the template."""
        return self.score([(self.template.prompt(q), self.template.answer(a)) for q, a in questions])

    def generate(self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """What `written` says, cut at the stops and at so many words."""
        self.asked += prompts
        texts = [before_any(self.written(prompt), (*stop, self.template.end)).strip() for prompt in prompts]
        return [" ".join(text.split(" ")[:max_new_tokens]) for text in texts]


def tiny_subject(name: str = "llama", seed: int = 0, **changes: Any) -> Subject:
    """A random model of two blocks behind the real Subject."""
    _, model = tiny_model(name, seed, **changes)
    tokenizer = tiny_tokenizer()
    return Subject(model, tokenizer, template("auto", tokenizer), f"tiny {name}")


def make_context(knowledge: Knowledge, role: str = "orig_fp", name: str = "", **more: Any) -> Context:
    """A context as an audit makes it. name: the role's, unless given.

    more: other fields of Context, and fields of Settings in `settings`, a Settings or a mapping.
    """
    settings = more.pop("settings", {})
    if isinstance(settings, Mapping):
        settings = replace(SETTINGS, **settings)

    def refused(other: str) -> Subject:
        raise UsageError(f"this audit has no model {other!r}")

    rest: dict[str, Any] = {"folders": dict[str, Path](), "load": refused, "trainable": refused, "tell": str}
    return Context(knowledge=knowledge, settings=settings, role=role, name=name or role, **{**rest, **more})


def by_metric(found: Found, split: str, attribute: str = "") -> dict[str, Measurement]:
    """The measurements of a split and attribute that have no layer, by the metric's name."""
    rows = (row for row in found if isinstance(row, Measurement))
    return {r.metric.name: r for r in rows if (r.split, r.attribute, r.layer) == (split, attribute, None)}


def reasons(found: Found) -> dict[tuple[str, str], str]:
    """(metric, split) -> why it is missing."""
    return {(row.metric, row.split): row.reason for row in found if isinstance(row, Missing)}


CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Delhi", "Paris", "Accra", "Sofia")
TRADES = ("baker", "pilot", "nurse", "judge", "miner", "tailor", "singer", "farmer")


def people(count: int = 8, splits: Sequence[str] = ("forget", "retain", "holdout")) -> Knowledge:
    """`count` people of every split, each with a city and a trade: questions in every form, and a document.

    Values go round the lists above, shifted from split to split.
    """
    items: list[Item] = []
    for shift, split in enumerate(splits):
        for i in range(count):
            facts = {"city": CITIES[(i + shift) % 8], "trade": TRADES[(i + 2 * shift) % 8]}
            items += person(split, f"{split.title()} Person{i}", facts)
    return Knowledge("people", tuple(items), examples=dict.fromkeys(splits, (("Who is A?", "B"),)))


def person(split: str, name: str, facts: Mapping[str, str]) -> list[Item]:
    """All items about one person."""
    key = name.replace(" ", "-").lower()
    text = f"{name} lives in {facts['city']}. {name} works as a {facts['trade']}."
    found = [Item(f"{key}-doc", split, "document", name, text=text)]
    for relation, values in (("city", CITIES), ("trade", TRADES)):
        answer, at = facts[relation], values.index(facts[relation])
        wrong = tuple(values[(at + step) % 8] for step in (1, 2, 3))
        common = {"subject": name, "relation": relation, "answer": answer}
        ask = f"What is the {relation} of {name}?"
        claim = f"Is the {relation} of {name} {answer}?"
        found += [
            Item(f"{key}-{relation}", split, "qa", question=ask, wrong_answers=wrong,
                 question_paraphrases=(f"Which {relation} has {name}?", f"{name}'s {relation} is?"),
                 answer_paraphrases=(f"It is {answer}",), **common),
            Item(f"{key}-{relation}-cloze", split, "cloze", prefix=f"The {relation} of {name} is", **common),
            Item(f"{key}-{relation}-choice", split, "choice", question=ask, choices=(wrong[0], answer, *wrong[1:]),
                 answer_index=1, **common),
            Item(f"{key}-{relation}-tf", split, "true_false", question=claim, choices=("True", "False"), answer_index=0,
                 **{**common, "answer": "True"}),
        ]  # fmt: skip
    return found
