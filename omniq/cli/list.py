"""omniq list: what can be chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import Enum
from typing import Annotated, Any

import typer

from omniq.cli import options as o

Row = dict[str, Any]


class Kind(str, Enum):
    """What can be listed."""

    presets = "presets"
    recipes = "recipes"
    formats = "formats"
    kernels = "kernels"
    models = "models"
    unlearners = "unlearners"
    sources = "sources"
    evaluators = "evaluators"


def command(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help=", ".join(kind.value for kind in Kind) + ".")],
    as_json: o.Json = False,
) -> None:
    """List what can be chosen: presets, recipes, formats, kernels, architectures, and what audits are made of."""
    from omniq.cli.render import print_json, print_table, text

    rows = LISTS[kind]()
    if as_json:
        return print_json({kind.value: rows})
    print_table(
        kind.value.capitalize(),
        list(rows[0]) if rows else [],
        [[text(value) for value in row.values()] for row in rows],
    )


def presets() -> list[Row]:
    """The methods, with their options and defaults."""
    from omniq.calibrate.method import METHODS

    return [
        {"name": name, "what it does": method.summary, "options": _defaults(method)} for name, method in METHODS.items()
    ]


def _defaults(method: type) -> str:
    """'epochs=20, alpha=0.5'."""
    pairs = [
        f"{f.name}={'auto' if f.default is None else f.default}" for f in fields(method) if f.default is not MISSING
    ]
    return ", ".join(pairs) or "none"


def recipes() -> list[Row]:
    """The recipes that come with omniq, as written after --config."""
    from omniq import recipes as shipped
    from omniq.recipe import Recipe, read_recipe

    found = {name: Recipe.from_dict(read_recipe(shipped.file_of(name)), name) for name in shipped.names()}
    return [
        {"name": name, "scheme": recipe.label, "preset": recipe.preset, "what for": shipped.purpose(name)}
        for name, recipe in found.items()
    ]


def formats() -> list[Row]:
    """The checkpoint layouts: those that omniq quantize writes, and those for omniq export alone."""
    from omniq.exporting.base import TARGETS
    from omniq.formats.base import FORMATS

    return [
        {
            "name": name,
            "written by": "omniq quantize, omniq export" if name in FORMATS else "omniq export",
            "loaded by": target.loaders,
        }
        for name, target in TARGETS.items()
    ]


def kernels() -> list[Row]:
    """The kernels and their state on this machine."""
    from omniq.installation.kernels import kernel_states

    return [{"name": name, "on this machine": state} for name, state in kernel_states().items()]


def models() -> list[Row]:
    """The architectures with a table; the last row says what happens without one."""
    from omniq.models.adapter import ADAPTERS

    rows = [{"name": name, "model types": ", ".join(adapter.model_types)} for name, adapter in ADAPTERS.items()]
    return [
        *rows,
        {"name": "any other", "model types": "decoder-only causal language models: presets without transformations"},
    ]


def sources() -> list[Row]:
    """Where the questions of an audit come from, as written after --data."""
    from omniq.knowledge.source import SOURCES

    return [
        {
            "name": name,
            "what it is": source.summary,
            "write": f"{name}:{source.argument}" if source.argument else name,
        }
        for name, source in SOURCES.items()
    ]


def unlearners() -> list[Row]:
    """The unlearning methods, with their options and defaults."""
    from omniq.unlearn.method import UNLEARNERS

    return [
        {"name": name, "what it does": kind.summary, "options": _defaults(kind), "learning rate": f"{kind.lr:g}"}
        for name, kind in UNLEARNERS.items()
    ]


def evaluators() -> list[Row]:
    """What an audit can measure."""
    from omniq.audit.base import EVALUATORS

    return [
        {
            "name": name,
            "what it measures": evaluator.summary,
            "metrics": ", ".join(metric.name for metric in evaluator.metrics),
            "cost": evaluator.cost,
        }
        for name, evaluator in EVALUATORS.items()
    ]


LISTS: dict[Kind, Callable[[], list[Row]]] = {
    Kind.presets: presets,
    Kind.recipes: recipes,
    Kind.formats: formats,
    Kind.kernels: kernels,
    Kind.models: models,
    Kind.unlearners: unlearners,
    Kind.sources: sources,
    Kind.evaluators: evaluators,
}
