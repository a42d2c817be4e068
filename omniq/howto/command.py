"""quantize_command: the command line that a recipe stands for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from omniq.calibrate.data import DataSpec
from omniq.recipe import BITS_CHOICES, Recipe
from omniq.spec import FLOAT_BITS, LinearSpec, QuantSpec

DEFAULT = Recipe(LinearSpec(QuantSpec(4, 128)))
"""What `omniq quantize` does unless told otherwise."""


def quantize_command(recipe: Recipe, model: str) -> str:
    """The command that makes OUT by this recipe; what holds by itself is left out.

    A recipe with two seeds, one for the data and one for the rest, can be written only as a file.
    """
    words = ["omniq", "quantize", model, "-o", "OUT"]
    if recipe.seed != recipe.data.seed:
        return shlex.join([*words, "--config", "recipe.yaml"])
    return shlex.join([*words, *_numbers(recipe), *_method(recipe), *_data(recipe)])


def _numbers(recipe: Recipe) -> Iterator[str]:
    """Options of number formats."""
    weight, acts = recipe.scheme.weight, recipe.scheme.input
    if recipe.avg_bits is not None:
        yield from ("--avg-bits", f"{recipe.avg_bits!r}")
        if tuple(recipe.bits_choices) != BITS_CHOICES:
            yield from ("--bits-choices", ",".join(map(str, recipe.bits_choices)))
    else:
        yield from ("--wbits", str(weight.bits))
    yield from _given("--group-size", weight.group_size, DEFAULT.scheme.weight.group_size)
    if not weight.symmetric:
        yield "--asymmetric"
    if acts is not None:
        yield from ("--abits", str(acts.bits), *([] if acts.symmetric else ["--act-asymmetric"]))
    if not recipe.attention:
        yield "--no-attention"
    yield from _given("--kv-bits", recipe.kv_bits, FLOAT_BITS)
    yield from _given("--rotate", recipe.rotate, DEFAULT.rotate)
    if recipe.search_clips is not None:
        yield "--search-clips" if recipe.search_clips else "--no-search-clips"
    yield from _given("--embed-bits", recipe.embed_bits, FLOAT_BITS)
    yield from _given("--embed-group-size", recipe.embed_group_size, None)
    yield from _given("--format", recipe.format, DEFAULT.format)


def _method(recipe: Recipe) -> Iterator[str]:
    """The preset and its options."""
    yield from ("--preset", recipe.preset)
    for name, value in recipe.options.items():
        yield from ("--set", f"{name}={as_yaml(value)}")
    yield from _given("--batch-size", recipe.batch_size, DEFAULT.batch_size)


def _data(recipe: Recipe) -> Iterator[str]:
    """Where calibration tokens come from, where there are any."""
    data, usual = recipe.data, DataSpec()
    if recipe.needs_data:
        yield from ("--calib", data.source, "--samples", str(data.samples), "--length", str(data.length))
        yield from _given("--split", data.split, usual.split)
        yield from _given("--column", data.column, usual.column)
    yield from _given("--seed", recipe.seed, DEFAULT.seed)


def _given(option: str, value: Any, usual: Any) -> tuple[str, ...]:
    return () if value == usual else (option, str(value))


def as_yaml(value: Any) -> str:
    """A plain value on one line, as --set reads it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]
