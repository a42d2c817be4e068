"""What a run needs, from the model's headers alone: sizes, memory and which runtimes will load the result."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import gcd

from torch import nn

from omniq.calibrate.data import SELF
from omniq.costs import START_SECONDS, cost, sizes
from omniq.errors import UnsupportedError, UsageError
from omniq.footprint import placement
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel, check_tokenizer
from omniq.memory import EVERYTHING, Budget
from omniq.mixed import average_bits, check_mixed
from omniq.models.adapter import ADAPTERS
from omniq.recipe import Recipe
from omniq.report import Plan
from omniq.rotation.model import added_bytes
from omniq.rotation.planning import attention_notes, check_clips, head_spec, linear_specs, rotation_notes
from omniq.spec import FLOAT_BITS, LinearSpec, TableSpec, largest_divisor
from omniq.text import documents
from omniq.timing import Cost
from omniq.vocab.planning import (
    bits_with_tables,
    check_tables,
    loaders,
    planned_table,
    table_weights,
)  # fmt: skip

FLOAT32 = 4


def check(model: OpenModel, recipe: Recipe, has_tokens: bool = False) -> None:
    """Refuses, before any weight is read, what the scheme, the preset, the format or the architecture cannot do.

    has_tokens: calibration tokens are there, so that no text and no tokenizer is asked for.
    """
    refusals = (recipe.method().refuse(spec, model.adapter) for spec in recipe.candidates())
    if reason := next(filter(None, refusals), None):
        tables = ", ".join(sorted(t for _, table in ADAPTERS.items() for t in table.model_types))
        raise UnsupportedError(
            f"preset {recipe.preset!r} on {model.config.model_type!r}: {reason}. Architectures with a table: {tables}"
        )
    check_clips(recipe)
    if not has_tokens:
        check_tokenizer(model.folder)
    if recipe.needs_data and recipe.data.source != SELF and not has_tokens:
        documents(recipe.data.source, recipe.data.column, recipe.data.split)  # raises when there is no such text
    check_groups(model, recipe.scheme.weight.group_size)
    form = FORMATS[recipe.format]
    check_mixed(model, recipe)
    for name, spec in product(model.linears, recipe.candidates()):
        layer = model.skeleton.get_submodule(name)
        reason = form.refuse(spec, (layer.out_features, layer.in_features))
        if reason:
            raise UnsupportedError(f"format {recipe.format!r} cannot store {name} as {spec}: {reason}")
    if table := table_of(model, recipe):
        check_tables(model, table, recipe.format)


def table_of(model: OpenModel, recipe: Recipe) -> TableSpec | None:
    """How embedding table and output head are to be stored, or None where they stay as they are."""
    return planned_table(model, recipe.embed_bits, recipe.embed_group_size, recipe.scheme.weight)


def planned_specs(model: OpenModel, recipe: Recipe) -> list[LinearSpec]:
    """All that some linear of the model may become, before anything is searched."""
    bits = [spec.weight.bits for spec in recipe.candidates()]
    return [spec.with_bits(b) for spec in dict.fromkeys(linear_specs(model, recipe).values()) for b in bits]


def check_groups(model: OpenModel, size: int) -> None:
    """Raises UsageError, with sizes that fit every layer, when groups of `size` do not divide one layer's input."""
    widths = {name: model.skeleton.get_submodule(name).in_features for name in model.linears}
    common = gcd(*widths.values())
    fits = [d for d in range(16, common + 1) if common % d == 0] or [largest_divisor(common)]
    for name, width in widths.items():
        if size != -1 and width % size:
            raise UsageError(
                f"{name}: in_features={width} is not a multiple of group size {size}; use -1 (per channel) or a "
                f"divisor such as {', '.join(map(str, fits))}, which fits every layer"
            )


def bits_per_weight(model: OpenModel, recipe: Recipe, specs: Mapping[str, LinearSpec] | None = None) -> float:
    """Stored bits per quantised weight of linears and tables: codes, scales, zero points of an asymmetric scheme.

    specs: of the linears, once they are known; None: the recipe's bits, or its budget.
    """
    codes = average_bits(model, specs) if specs else recipe.avg_bits or recipe.scheme.weight.bits
    spec, scale_bits = recipe.scheme.weight, FORMATS[recipe.format].scale_dtype(model.dtype).itemsize * 8
    weights = groups = 0
    for name in model.linears:
        layer = model.skeleton.get_submodule(name)
        weights += layer.weight.numel()
        groups += layer.out_features * spec.groups(layer.in_features)
    linears = codes + (scale_bits + (0 if spec.symmetric else codes)) * groups / weights
    return bits_with_tables(linears, weights, model, table_of(model, recipe))


def plan(
    model: OpenModel, label: str, recipe: Recipe, size_before: int, speed: Cost, budget: Budget = EVERYTHING,
    on_device: bool = False,
) -> Plan:  # fmt: skip
    """The plan of a run on an opened model; what it cannot do raises.

    speed: what this machine does in a second. budget: what the run may hold. on_device: an accelerator does the work.
    """
    check(model, recipe)
    lives = placement(model, recipe, budget, on_device)
    count = sizes(model)
    bits = bits_per_weight(model, recipe)
    method, blocks = recipe.method(), len(model.skeleton.get_submodule(model.blocks))
    table, form = table_of(model, recipe), FORMATS[recipe.format]
    tables = table_weights(model, table)
    size_after = int(size_before + added_bytes(model) - (count.linears + tables) * (model.dtype.itemsize - bits / 8))
    stream = FLOAT32 * recipe.data.samples * recipe.data.length * count.hidden
    return Plan(
        model=label,
        scheme=recipe.label,
        blocks=blocks,
        linears=len(model.linears),
        parameters=count.total,
        bits_per_weight=bits,
        size_before=size_before,
        size_after=size_after,
        peak_memory=lives.host,
        work_bytes=2 * size_after + ((8 if lives.streams_on_disk else 4) * stream if method.needs_data else 0),
        seconds=START_SECONDS + cost(model, count, recipe).seconds(speed),
        loaders=loaders(model, form, planned_specs(model, recipe), table, head_spec(model, recipe)),
        notes=tuple(notes(model, recipe)),
        tables=table and str(table),
        device_memory=lives.device,
        lives=lives.sentences(recipe),
    )


def notes(model: OpenModel, recipe: Recipe) -> list[str]:
    """What the user should know before the run starts."""
    found = [f"{name} stays in floating point: {reason}" for name, reason in list(model.skipped.items())[:1]]
    if len(model.skipped) > 1:
        found[0] += f" (and {len(model.skipped) - 1} more linears)"
    kept = "token embeddings, output head and norms" if recipe.embed_bits == FLOAT_BITS else "norms"
    found.append(f"{kept} stay in floating point")
    found += rotation_notes(model, recipe)
    found += attention_notes(model, recipe)
    if recipe.scheme.input and any(type(model.skeleton.get_submodule(name)) is not nn.Linear for name in model.linears):
        found.append("this architecture has a linear class of its own: with quantised activations only omniq loads it")
    if recipe.avg_bits is not None:
        listed = ", ".join(map(str, recipe.bits_choices))
        found.append(
            f"each linear gets {listed} bits by its measured sensitivity, {recipe.avg_bits:g} on average; the run "
            "tells which when it has measured"
        )
    if recipe.data.source == SELF and recipe.needs_data:
        found.append("the model writes the calibration text itself, for which all of it is loaded into memory once")
    return found
