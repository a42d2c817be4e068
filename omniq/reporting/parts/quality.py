"""How good it is: what was measured against the original, or that nothing was."""

from __future__ import annotations

from omniq.page.markup import Markup, paragraph, section, table, tag
from omniq.reporting.record import Record

MEASURES = {
    "ppl": ("Perplexity", "{:.3f}", "lower is better"),
    "kl": ("KL to the original, nats per token", "{:.4f}", "0 is the original itself"),
    "top1": ("Same best next token", "{:.4f}", "1 is always"),
}


def quality(record: Record) -> Markup:
    """A table with the protocol below it."""
    found = record.quality or {}
    rows = []
    for key, (name, form, meaning) in MEASURES.items():
        if found.get(key) is not None:
            before = found.get(f"{key}_original", {"kl": 0, "top1": 1}.get(key))
            rows.append((name, "" if before is None else form.format(before), form.format(found[key]), meaning))
    if not rows:
        parts = ["Not measured. To measure it and to put it here: ", tag("code", measuring())]
        return section("quality", "Quality", paragraph(parts))
    said = paragraph(f"Measured on {found.get('protocol', 'an unknown text')}.", "hint")
    return section("quality", "Quality", table(("", "Original", "Quantised", ""), rows, "numbers"), said)


def measuring() -> str:
    """The command that measures a finished folder and keeps what it measured."""
    return "omniq eval OUT --against MODEL --text FILE --record"
