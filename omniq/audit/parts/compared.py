"""What was compared: the models, and the key figures of each on each split."""

from __future__ import annotations

from collections.abc import Mapping

from omniq.audit.lookup import base_name, figures_of, missing, overall, quantised
from omniq.audit.parts.numbers import Reasons, change_cell, counts, plain_cell, share_cell, value_cell
from omniq.audit.result import Result, Row
from omniq.audit.wording import (
    KEY_FIGURES,
    KEY_SPLITS,
    ROLE_MEANINGS,
    ROLE_WORDS,
    SPLIT_WORDS,
    KeyFigure,
    displays,
    number,
    p_value,
)
from omniq.page.markup import Markup, details, listed, paragraph, section, table, tag

UNMEASURED = "not measured for this model"
UNFOLDED = 2
"""Quantised models whose changes are shown without a click."""


def models(result: Result) -> Markup:
    """A table of the models with their roles."""
    head = ("Role", "What it is for", "Model", "Method", "Scheme", "Bits", "Folder")
    rows = [
        (role(one.role), ROLE_MEANINGS.get(one.role, ""), one.label, one.method or "–", one.scheme or "–",
         plain_cell(str(one.bits)), tag("code", one.folder))
        for one in result.models
    ]  # fmt: skip
    return section("models", "What was compared", table(head, rows, "models"))


def role(name: str) -> Markup:
    """The words for a role with the dot of its colour."""
    return Markup(f"{tag('span', '', class_=f'dot {name}' if name in ROLE_WORDS else 'dot')}"
                  f"{tag('span', ROLE_WORDS.get(name, name))}")  # fmt: skip


def key_figures(result: Result) -> Markup:
    """A table for each split: models down, metrics across; what the metrics mean below."""
    splits = {split: figures_of(result, split) for split in KEY_SPLITS}
    parts = [split_table(result, split, figures) for split, figures in splits.items() if figures]
    if not parts:
        return section("figures", "Key figures", paragraph("None of the key figures was measured in this audit."))
    used = dict.fromkeys(figure for figures in splits.values() for figure in figures)
    meanings = [[tag("b", figure.label), f": {figure.meaning}."] for figure in used]
    intro = "Each value with its 95 % interval over items; chance is what ignorance scores."
    return section("figures", "Key figures", paragraph(intro), *parts, listed(meanings, "meanings"))


def split_table(result: Result, split: str, figures: tuple[KeyFigure, ...]) -> Markup:
    """The key figures of one split, with the reasons for those that are missing."""
    found = {figure: overall(result, figure.evaluator, figure.metric, split) for figure in figures}
    gone = {figure: missing(result, figure.evaluator, figure.metric, split) for figure in figures}
    reasons, names = Reasons(), displays(result)
    rows = []
    for model in result.models:
        line = [[dot(model.role), names[model.name]]]
        for figure in figures:
            row = found[figure].get(model.name)
            absent = gone[figure].get(model.name)
            if row is None:
                line.append(reasons.mark(absent.reason if absent else UNMEASURED))
            else:
                line.append(value_cell(row, chance=shared_chance(found[figure]) is None))
        rows.append(line)
    head = ["", *(heading(figure, found[figure]) for figure in figures)]
    return Markup(table(head, rows, "figures", SPLIT_WORDS[split]) + reasons.notes())


def dot(role_name: str) -> Markup:
    """The mark of a role's colour."""
    return tag("span", "", class_=f"dot {role_name}" if role_name in ROLE_WORDS else "dot")


def heading(figure: KeyFigure, rows: Mapping[str, Row]) -> list[str]:
    """The name of a metric, its chance where all models share it, and over how many items it is."""
    chance = shared_chance(rows)
    said = tag("small", f"chance {chance:g}") if chance is not None else ""
    return [figure.label, said, tag("small", f"n = {counts(rows)}") if rows else ""]


def shared_chance(rows: Mapping[str, Row]) -> float | None:
    """The chance that the rows of all models share, None where there is none or they differ."""
    found = {row.chance for row in rows.values()}
    return found.pop() if len(found) == 1 else None


def effects(result: Result) -> Markup:
    """For every quantised model what quantisation changed, beside what it changed in the original."""
    names = displays(result)
    parts = []
    for model in quantised(result):
        rows = [row for row in key_rows(result) if row.name == model.name]
        lines = [change_line(result, row, base_name(result, model), model.control) for row in rows]
        if lines:
            parts.append((names[model.name], table(effect_head(model.role), lines, "figures")))
    if not parts:
        return Markup("")
    more = paragraph(CONTROL_WORDS) if any(model.control for model in quantised(result)) else ""
    folded = len(parts) > UNFOLDED
    shown = [details(name, body) if folded else Markup(tag("h3", name) + body) for name, body in parts]
    return section("effect", "What quantisation changed", paragraph(EFFECT_WORDS), more, *shown)


EFFECT_WORDS = (
    "Change: after less before quantisation, on the same items; bold where the 95 % interval leaves out 0. "
    "Up and down: items that rose and fell."
)
CONTROL_WORDS = (
    "Change of the original: by the same quantiser on the original model. Difference: the first change less the "
    "second, which is what unlearning makes quantisation do. Recovered: the share of the way from the unlearned model "
    "back to the quantised original, given where they differ by at least 0.05."
)


def effect_head(role_name: str) -> tuple[str, ...]:
    """The columns of the table of changes; a control has nothing to be compared with."""
    more = ("Change of the original", "Difference", "Recovered") if role_name == "unl_q" else ()
    return ("", "Before", "After", "Change", *more, "p", "Up / down")


def key_rows(result: Result) -> list[Row]:
    """The rows of key figures, in the order of splits and figures."""
    return [
        row
        for split in KEY_SPLITS
        for figure in figures_of(result, split)
        for row in overall(result, figure.evaluator, figure.metric, split).values()
    ]


def change_line(result: Result, row: Row, base: str | None, control: str | None) -> list[Markup | list[str]]:
    """One metric before and after, with everything that says how sure and how special the change is."""
    figure = next(one for one in KEY_FIGURES if (one.evaluator, one.metric) == (row.evaluator, row.metric))
    rows = overall(result, row.evaluator, row.metric, row.split)
    before, other = rows.get(base), rows.get(control)
    first = plain_cell(number(before.value)) if before else plain_cell("")
    line = [[f"{row.split}: {figure.label}"], first, plain_cell(number(row.value)), own_change(row)]
    if row.role == "unl_q":
        line += [own_change(other) if other else plain_cell(""), change_cell(row.did, row.did_lo, row.did_hi)]
        line.append(share_cell(row.recovered_share, row.recovered_share_lo, row.recovered_share_hi))
    flips = "" if row.items_up is None else f"{row.items_up} / {row.items_down}"
    return [*line, plain_cell(p_value(row.p_value)), plain_cell(flips)]


def own_change(row: Row) -> Markup:
    """The change of a quantised model against what it was made from."""
    if row.role == "unl_q":
        return change_cell(row.delta_vs_unl_fp, row.delta_vs_unl_fp_lo, row.delta_vs_unl_fp_hi)
    return change_cell(row.delta_vs_orig_fp, row.delta_vs_orig_fp_lo, row.delta_vs_orig_fp_hi)
