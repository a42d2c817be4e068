"""tables: what the terminal shows of an audit: the verdicts in words, and the key figures of each split."""

from __future__ import annotations

from omniq.audit.lookup import figures_of, missing, overall
from omniq.audit.result import Result, Row
from omniq.audit.wording import DRAWN, KEY_SPLITS, KeyFigure, displays, number

MOST = 4
"""Metrics beside each other; with intervals, more do not fit a terminal."""

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, names of the columns, rows of cells; without columns the table has no header."""


def tables(result: Result) -> list[Table]:
    """The verdicts, then one table for each split that has key figures."""
    splits = ((split, figures_of(result, split)) for split in KEY_SPLITS)
    found = ((split, chosen(result, split, figures)) for split, figures in splits)
    return [*verdicts(result), *(figures(result, split, keys) for split, keys in found if keys)]


def verdicts(result: Result) -> list[Table]:
    """One table for each verdict: the sentence, the codes, what follows for either aim, and what decided it."""
    names = displays(result)
    return [
        (
            f"Verdict: {names.get(one.name, one.name)}",
            (),
            [
                ("in words", one.sentence),
                ("unlearned model", one.state),
                ("effect", ", ".join(one.effect)),
                ("mechanism", one.mechanism),
                *(("", reading) for reading in one.readings),
                *([("decided by", ", ".join(one.drivers))] if one.drivers else []),
            ],
        )
        for one in result.verdicts
    ]


def chosen(result: Result, split: str, figures: tuple[KeyFigure, ...]) -> tuple[KeyFigure, ...]:
    """The first figures that have a value, in the order of DRAWN; those that are 0 for every model come last."""
    values = {key: [row.value for row in overall(result, key.evaluator, key.metric, split).values()] for key in figures}
    measured = [key for metric in DRAWN for key in figures if key.metric == metric and values[key]]
    return tuple(sorted(measured, key=lambda key: not any(values[key])))[:MOST]


def figures(result: Result, split: str, keys: tuple[KeyFigure, ...]) -> Table:
    """Models down, metrics across; each with its interval, N/A where it is missing."""
    rows = {key: overall(result, key.evaluator, key.metric, split) for key in keys}
    gone = {key: missing(result, key.evaluator, key.metric, split) for key in keys}
    lines = [
        (name, *(cell(rows[key].get(model), model in gone[key]) for key in keys))
        for model, name in displays(result).items()
    ]
    columns = ("model", *(heading(key, rows[key]) for key in keys))
    return f"Key figures on {split}, with 95 % intervals", columns, lines


def heading(key: KeyFigure, rows: dict[str, Row]) -> str:
    """'truth ratio (chance 0.5)'."""
    chances = {row.chance for row in rows.values()}
    chance = chances.pop() if len(chances) == 1 else None
    return key.label if chance is None else f"{key.label} (chance {chance:g})"


def cell(row: Row | None, absent: bool) -> str:
    """'0.12 [0.05, 0.20]', with the gate where it is not ok; N/A where there is a reason, else a dash."""
    if row is None:
        return "N/A" if absent else "–"
    ends = "" if row.ci_lo is None or row.ci_hi is None else f" [{brief(row.ci_lo)}, {brief(row.ci_hi)}]"
    gate = "" if row.gate == "ok" else f" ({row.gate.replace('_', ' ')})"
    return f"{brief(row.value)}{ends}{gate}"


def brief(value: float) -> str:
    """Two decimals, as a terminal is narrow; numbers that are not near 1 as everywhere else."""
    return f"{value:.2f}" if abs(value) < 10 else number(value)
