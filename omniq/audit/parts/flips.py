"""The questions whose written answer became right or wrong by quantisation, with what both models wrote."""

from __future__ import annotations

from omniq.audit.lookup import base_name, quantised
from omniq.audit.result import ItemValue, Result, Tested
from omniq.audit.wording import SPLIT_WORDS, displays
from omniq.page.markup import Markup, details, paragraph, section, table, tag

EVALUATOR, METRIC = "qa_gen", "contains"
MOST = 60
"""Rows of a table; a longer one is not read, and all of them are among the items on disk."""

LONGEST = 400
"""Characters of a text that are shown."""


def flips(result: Result) -> Markup:
    """Two tables for each quantised model; nothing where no answers were written."""
    answers = written(result)
    names = displays(result)
    parts = []
    for model in quantised(result):
        base = base_name(result, model)
        before, after = answers.get(base, {}), answers.get(model.name, {})
        if before and after:
            parts += [tag("h3", names[model.name]), *pair(result, model, names[base], before, after)]
    if not parts:
        return Markup("")
    return section("flips", "Answers that changed", paragraph(INTRO), *parts)


INTRO = "An answer counts as right where it contains the expected one. Both models answered greedily."


def written(result: Result) -> dict[str, dict[str, ItemValue]]:
    """Model name -> item id -> whether its written answer is right, and the answer."""
    found: dict[str, dict[str, ItemValue]] = {}
    for item in result.items:
        if (item.evaluator, item.metric) == (EVALUATOR, METRIC):
            found.setdefault(item.name, {})[item.item] = item
    return found


def pair(
    result: Result, model: Tested, base: str, before: dict[str, ItemValue], after: dict[str, ItemValue]
) -> list[Markup]:
    """The tables of one model: wrong to right, and right to wrong."""
    both = [item for item in after if item in before]
    rose = [item for item in both if before[item].value < 0.5 <= after[item].value]
    fell = [item for item in both if after[item].value < 0.5 <= before[item].value]
    return [
        changed(result, "Wrong before, right after quantisation", rose, before, after, base),
        changed(result, "Right before, wrong after quantisation", fell, before, after, base),
    ]


def changed(
    result: Result,
    title: str,
    items: list[str],
    before: dict[str, ItemValue],
    after: dict[str, ItemValue],
    base: str,
) -> Markup:
    """One table, folded away where it is empty or long; the first rows of each split."""
    counts = {split: sum(after[item].split == split for item in items) for split in SPLIT_WORDS}
    said = ", ".join(f"{count} {split}" for split, count in counts.items() if count) or "none"
    if not items:
        return paragraph([tag("b", title), ": none"])
    head = ("Split", "Question", "Expected", f"Before: {base}", "After")
    rows = [
        (after[item].split, *(clipped(result.questions.get(item, {}).get(name, item if name == "question" else ""))
         for name in ("question", "answer")), clipped(before[item].text), clipped(after[item].text))
        for item in items[:MOST]
    ]  # fmt: skip
    left = len(items) - MOST
    more = paragraph(f"{left} more are among the items of the audit's result file.") if left > 0 else ""
    body = details([title, ": ", said], table(head, rows, "texts"), more)
    return Markup(body.replace("<details>", "<details open>", 1)) if len(items) <= MOST // 3 else body


def clipped(text: str) -> str:
    """The text, cut where it is very long."""
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
