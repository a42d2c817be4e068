"""The first thing that a reader sees: the verdict on every quantised model in words."""

from __future__ import annotations

from collections.abc import Mapping

from omniq.audit.result import Result, Verdict
from omniq.audit.wording import CODE_WORDS, displays
from omniq.page.markup import Markup, listed, paragraph, section, table, tag

FIELDS = ("Unlearned model", "Effect of quantisation", "Mechanism")
QUIET = ("INCONCLUSIVE", "UNKNOWN", "NOT_ASSESSED")
GOOD = ("STABLE", "CONSISTENT_WITH_REMOVAL", "PRESERVED")
UNLISTED = 2
"""More verdicts than this get a table of their codes above the cards."""


def verdicts(result: Result) -> Markup:
    """A card for every verdict, and what its codes mean."""
    names = displays(result)
    title = "Verdict" if len(result.verdicts) == 1 else "Verdicts"
    if not result.verdicts:
        return section("verdict", title, paragraph("No quantised model was judged in this audit.", "lead"))
    cards = [card(verdict, names.get(verdict.name, verdict.name)) for verdict in result.verdicts]
    over = overview(result, names) if len(cards) > UNLISTED else ""
    return section("verdict", title, over, *cards, glossary(result))


def overview(result: Result, names: Mapping[str, str]) -> Markup:
    """One line for each verdict."""
    rows = [
        (names.get(one.name, one.name), badge(one.state), [badge(code) for code in one.effect], badge(one.mechanism))
        for one in result.verdicts
    ]
    return table(("Model", *FIELDS), rows, "models")


def card(verdict: Verdict, name: str) -> Markup:
    """The sentence, the codes, what they mean for either aim, and the evidence that decided."""
    parts = [tag("h3", name), codes(verdict), paragraph(verdict.sentence, "lead")]
    if verdict.readings:
        parts.append(listed(verdict.readings, "readings"))
    if verdict.drivers:
        drivers = [part for driver in verdict.drivers for part in (tag("code", driver), ", ")][:-1]
        decided = [tag("b", "Decided by "), *drivers]
        parts.append(paragraph(decided, "drivers"))
    return tag("article", parts, class_="card")


def codes(verdict: Verdict) -> Markup:
    """The three fields of a verdict with their codes."""
    found = ((verdict.state,), verdict.effect, (verdict.mechanism,))
    entries = [
        tag("div", [tag("dt", field), tag("dd", [badge(code) for code in codes])])
        for field, codes in zip(FIELDS, found, strict=True)
        if any(codes)
    ]
    return tag("dl", entries, class_="codes")


def badge(code: str) -> Markup:
    """A code, coloured by whether it is a finding, no finding, or no decision; nothing for a field without one."""
    if not code:
        return Markup("")
    kind = "quiet" if code in QUIET else "good" if code in GOOD else "found"
    return tag("span", code, class_=f"badge {kind}", title=CODE_WORDS.get(code))


def glossary(result: Result) -> Markup:
    """What the codes that occur mean, in the order of first use."""
    used = [code for one in result.verdicts for code in (one.state, *one.effect, one.mechanism)]
    known = [code for code in dict.fromkeys(used) if code in CODE_WORDS]
    lines = [tag("div", [tag("dt", code), tag("dd", CODE_WORDS[code])]) for code in known]
    return tag("dl", lines, class_="glossary") if lines else Markup("")
