"""What reports look up in a result: the rows of a metric, the models of an effect, the figures that a split has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omniq.audit.result import Absent, Result, Row, Tested
from omniq.audit.wording import DRAWN, KEY_FIGURES, KeyFigure


def overall(result: Result, evaluator: str, metric: str, split: str) -> dict[str, Row]:
    """Model name -> the row about a whole split, in the order of the models.

    Of a metric that is measured layer by layer, the row of the layer where the original's value is highest.
    """
    wanted = (evaluator, metric, split, "")
    found = [row for row in result.rows if (row.evaluator, row.metric, row.split, row.attribute) == wanted]
    layer = best_layer(found)
    by_name = {row.name: row for row in found if row.layer == layer}
    return {model.name: by_name[model.name] for model in result.models if model.name in by_name}


def best_layer(rows: Sequence[Row]) -> int | None:
    """None where a row is about no layer, else the layer of the original's highest value."""
    if any(row.layer is None for row in rows):
        return None
    original = [row for row in rows if row.role == "orig_fp"]
    return max(original, key=lambda row: row.direction * row.value).layer if original else None


def by_layer(result: Result, evaluator: str, metric: str, split: str) -> dict[str, list[Row]]:
    """Model name -> the rows over all attributes, in the order of their layers."""
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        place = (row.evaluator, row.metric, row.split, row.attribute)
        if place == (evaluator, metric, split, "") and row.layer is not None:
            found.setdefault(row.name, []).append(row)
    return {name: sorted(rows, key=lambda row: row.layer) for name, rows in in_order(result, found)}


def in_order(result: Result, found: dict[str, list[Row]]) -> Iterable[tuple[str, list[Row]]]:
    """The entries of a mapping by model name, in the order of the models."""
    return ((model.name, found[model.name]) for model in result.models if model.name in found)


def missing(result: Result, evaluator: str, metric: str, split: str) -> dict[str, Absent]:
    """Model name -> why a metric is not there for a split; a reason that names no split holds for all."""
    return {
        one.name: one
        for one in result.absent
        if (one.evaluator, one.metric) == (evaluator, metric) and one.split in ("", split)
    }


def figures_of(result: Result, split: str) -> tuple[KeyFigure, ...]:
    """The key figures that some model has on a split, or for which there is a reason that it has not."""
    had = {(row.evaluator, row.metric) for row in result.rows if row.split == split}
    had |= {(one.evaluator, one.metric) for one in result.absent if one.split == split}
    return tuple(figure for figure in KEY_FIGURES if (figure.evaluator, figure.metric) in had)


def measured_figures(result: Result, splits: Iterable[str]) -> tuple[KeyFigure, ...]:
    """The key figures of which every one of the splits has a value of some model."""
    return tuple(
        figure
        for figure in KEY_FIGURES
        if all(overall(result, figure.evaluator, figure.metric, split) for split in splits)
    )


def drawn_figures(result: Result, splits: Iterable[str], most: int) -> tuple[KeyFigure, ...]:
    """The first figures to draw of those that every one of the splits has."""
    found = measured_figures(result, tuple(splits))
    return tuple(figure for metric in DRAWN for figure in found if figure.metric == metric)[:most]


def base_name(result: Result, model: Tested) -> str | None:
    """The model that a quantised one was made from: the unlearned model, for a control the original; None: unknown."""
    role = {"unl_q": "unl_fp", "orig_q": "orig_fp"}.get(model.role)
    return next((one.name for one in result.models if one.role == role), None)


def quantised(result: Result) -> tuple[Tested, ...]:
    """The quantised models that the audit is about: the unlearned ones, where there are none the original's."""
    for role in ("unl_q", "orig_q"):
        found = tuple(model for model in result.models if model.role == role)
        if found:
            return found
    return ()
