"""Everything that was measured, folded away by evaluator, and what could not be."""

from __future__ import annotations

from omniq.audit.base import EVALUATORS
from omniq.audit.lookup import missing
from omniq.audit.parts.numbers import Reasons, change_cell, counts, plain_cell, share_cell, value_cell
from omniq.audit.result import Result, Row
from omniq.audit.wording import displays, is_overall, number, p_value
from omniq.page.markup import Markup, details, listed, paragraph, section, table, tag

Place = tuple[str, str, str, int]


def everything(result: Result) -> Markup:
    """A folded table of values and one of changes for each evaluator."""
    evaluators = dict.fromkeys([row.evaluator for row in result.rows] + [one.evaluator for one in result.absent])
    parts = [one_evaluator(result, name) for name in evaluators]
    if not parts:
        return Markup("")
    intro = "Every value of every evaluator, with its 95 % interval; n is the number of items."
    return section("all", "All results", paragraph(intro), *parts)


def one_evaluator(result: Result, evaluator: str) -> Markup:
    """The tables of one evaluator."""
    rows = [row for row in result.rows if row.evaluator == evaluator]
    gone = sum(one.evaluator == evaluator for one in result.absent)
    said = f"{len(rows)} values" + (f", {gone} not available" if gone else "")
    title = [tag("code", evaluator), " ", tag("small", said)]
    return details(title, explained(evaluator), values(result, evaluator, rows), changes(rows))


def explained(evaluator: str) -> Markup:
    """What an evaluator does and what its metrics mean; nothing of one that this version does not have."""
    if evaluator not in EVALUATORS:
        return Markup("")
    known = EVALUATORS[evaluator]
    meanings = [[tag("code", metric.name), f": {metric.summary}"] for metric in known.metrics]
    return Markup(paragraph(sentence(known.summary)) + listed(meanings, "meanings"))


def sentence(words: str) -> str:
    """The words with a capital letter and a full stop."""
    return f"{words[:1].upper()}{words[1:]}."


def values(result: Result, evaluator: str, rows: list[Row]) -> Markup:
    """Metrics, splits, attributes and layers down, models across."""
    found: dict[Place, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(place_of(row), {})[row.name] = row
    for one in result.absent:
        if one.evaluator == evaluator:
            found.setdefault((one.metric, one.split, "", -1), {})
    reasons, names = Reasons(), displays(result)
    lines = []
    for place, by_name in found.items():
        metric, split, attribute, layer = place
        gone = missing(result, evaluator, metric, split)
        line: list[str] = [metric, split or "–", attribute, "" if layer < 0 else str(layer), counts(by_name)]
        line.append(chance(by_name))
        for name in names:
            if name in by_name:
                line.append(value_cell(by_name[name], chance=chance(by_name) == VARIES))
            else:
                line.append(reasons.mark(gone[name].reason) if name in gone else tag("td", "–", class_="na"))
        lines.append(line)
    head = ("Metric", "Split", "Attribute", "Layer", "n", "Chance", *names.values())
    return Markup(table(head, lines, "full") + reasons.notes())


VARIES = "varies"


def chance(rows: dict[str, Row]) -> str:
    """The chance that all models share, '' for none."""
    found = {row.chance for row in rows.values()} - {None}
    return VARIES if len(found) > 1 else number(found.pop()) if found else ""


def place_of(row: Row) -> Place:
    """What makes rows of two models stand on one line."""
    return row.metric, row.split, row.attribute, -1 if row.layer is None else row.layer


def changes(rows: list[Row]) -> Markup:
    """What rows about whole splits say in comparison with other models."""
    head = ("Metric", "Split", "Model", "Against unlearned", "Against original", "Against quantised original",
            "Against never trained",
            "Kept", "Recovered", "Difference", "p", "Up / down")  # fmt: skip
    lines = [
        (row.metric, row.split, row.name, *differences(row), *shares(row),
         change_cell(row.did, row.did_lo, row.did_hi), plain_cell(p_value(row.p_value)),
         plain_cell("" if row.items_up is None else f"{row.items_up} / {row.items_down}"))
        for row in rows
        if is_overall(row) and compares(row)
    ]  # fmt: skip
    return table(head, lines, "full", "Compared with other models on the same items") if lines else Markup("")


def differences(row: Row) -> list[Markup]:
    """The differences from the four models that a row is compared with."""
    return [
        change_cell(row.delta_vs_unl_fp, row.delta_vs_unl_fp_lo, row.delta_vs_unl_fp_hi),
        change_cell(row.delta_vs_orig_fp, row.delta_vs_orig_fp_lo, row.delta_vs_orig_fp_hi),
        change_cell(row.delta_vs_orig_q, row.delta_vs_orig_q_lo, row.delta_vs_orig_q_hi),
        change_cell(row.delta_vs_never, row.delta_vs_never_lo, row.delta_vs_never_hi),
    ]


def shares(row: Row) -> list[Markup]:
    """What share of the original's value is left, and what share of the loss came back."""
    return [
        share_cell(row.retained_share, None, None),
        share_cell(row.recovered_share, row.recovered_share_lo, row.recovered_share_hi),
    ]


def compares(row: Row) -> bool:
    """Whether a row says anything about other models."""
    found = (row.delta_vs_unl_fp, row.delta_vs_orig_fp, row.delta_vs_orig_q, row.delta_vs_never, row.did)
    return any(value is not None for value in found)


def absences(result: Result) -> Markup:
    """What could not be computed, one line for each reason."""
    if not result.absent:
        return Markup("")
    names = displays(result)
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for one in result.absent:
        found.setdefault((one.evaluator, one.reason), []).append((one.metric, one.split, one.name))
    lines = []
    for (evaluator, reason), cases in found.items():
        metrics, splits, models = (list(dict.fromkeys(case[index] for case in cases)) for index in range(3))
        everyone = len(models) == len(result.models)
        whom = "all models" if everyone else ", ".join(names.get(name, name) for name in models)
        where = ", ".join(filter(None, splits)) or "any"
        lines.append((tag("code", evaluator), ", ".join(metrics), where, whom, reason))
    head = ("Evaluator", "Metrics", "Split", "Models", "Why")
    intro = "What could not be computed is N/A in every table and speaks neither for nor against a model."
    return section("absent", "Not available, and why", paragraph(intro), table(head, lines, "texts"))
