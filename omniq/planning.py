"""What a run needs, from the model's headers alone: sizes, memory and which runtimes will load the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

from torch import nn

from omniq.calibrate.data import SELF
from omniq.calibrate.training import MEASURED
from omniq.errors import UnsupportedError, UsageError
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel, check_tokenizer
from omniq.models.adapter import ADAPTERS
from omniq.recipe import Recipe
from omniq.report import Plan
from omniq.spec import LinearSpec, largest_divisor
from omniq.text import documents
from omniq.timing import Cost

FLOAT32 = 4
RUNTIME_BYTES = 450_000_000
"""Python, torch and transformers themselves, measured on Linux x86-64 with the CPU build of torch."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights: in all, in linears to quantise, in the largest block, outside blocks; hidden size D."""

    total: int
    linears: int
    largest_block: int
    outside: int
    hidden: int


def sizes(model: OpenModel) -> Sizes:
    """Counted on the skeleton, without reading a weight."""
    skeleton = model.skeleton
    blocks = [sum(p.numel() for p in block.parameters()) for block in skeleton.get_submodule(model.blocks)]
    total = sum(p.numel() for p in skeleton.parameters())
    linears = sum(skeleton.get_submodule(name).weight.numel() for name in model.linears)
    return Sizes(total, linears, max(blocks), total - sum(blocks), skeleton.config.hidden_size)


def check(model: OpenModel, recipe: Recipe) -> None:
    """Refuses, before any weight is read, what the scheme, the preset, the format or the architecture cannot do."""
    reason = recipe.method().refuse(recipe.scheme, model.adapter)
    if reason:
        tables = ", ".join(sorted(t for _, table in ADAPTERS.items() for t in table.model_types))
        raise UnsupportedError(
            f"preset {recipe.preset!r} on {model.config.model_type!r}: {reason}. Architectures with a table: {tables}"
        )
    check_tokenizer(model.folder)
    if recipe.method().needs_data and recipe.data.source != SELF:
        documents(recipe.data.source, recipe.data.column, recipe.data.split)  # raises when there is no such text
    check_groups(model, recipe.scheme.weight.group_size)
    form = FORMATS[recipe.format]
    for name in model.linears:
        layer = model.skeleton.get_submodule(name)
        reason = form.refuse(recipe.scheme, (layer.out_features, layer.in_features))
        if reason:
            raise UnsupportedError(f"format {recipe.format!r} cannot store {name} as {recipe.scheme}: {reason}")


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


def bits_per_weight(model: OpenModel, recipe: Recipe) -> float:
    """Stored bits per quantised weight: codes, scales, and zero points of an asymmetric scheme."""
    spec, scale_bits = recipe.scheme.weight, model.dtype.itemsize * 8
    weights = groups = 0
    for name in model.linears:
        layer = model.skeleton.get_submodule(name)
        weights += layer.weight.numel()
        groups += layer.out_features * spec.groups(layer.in_features)
    return spec.bits + (scale_bits + (0 if spec.symmetric else spec.bits)) * groups / weights


def peak_memory(count: Sizes, recipe: Recipe) -> int:
    """Bytes: the libraries, and the larger of embedding the tokens and working on one block.

    A block takes its weights in float32, and as much again three times for a preset that trains (effective weights,
    their gradients, what backpropagation keeps); the two streams and the target are float32.
    """
    method = recipe.method()
    block = FLOAT32 * count.largest_block * (2 if recipe.preset in ("rtn", "gptq") else 5)
    if not method.needs_data:
        return RUNTIME_BYTES + block
    stream = FLOAT32 * recipe.data.samples * recipe.data.length * count.hidden
    return RUNTIME_BYTES + max(FLOAT32 * count.outside + stream, block + 5 * stream)


def plan(model: OpenModel, label: str, recipe: Recipe, size_before: int, speed: Cost) -> Plan:
    """The plan of a run on an opened model; what it cannot do raises. speed: what this machine does in a second."""
    check(model, recipe)
    count = sizes(model)
    bits = bits_per_weight(model, recipe)
    method = recipe.method()
    size_after = int(size_before - count.linears * (model.dtype.itemsize - bits / 8))
    stream = FLOAT32 * recipe.data.samples * recipe.data.length * count.hidden
    return Plan(
        model=label,
        scheme=str(recipe.scheme),
        blocks=len(model.skeleton.get_submodule(model.blocks)),
        linears=len(model.linears),
        parameters=count.total,
        bits_per_weight=bits,
        size_before=size_before,
        size_after=size_after,
        peak_memory=peak_memory(count, recipe),
        work_bytes=2 * size_after + (4 * stream if method.needs_data else 0),
        seconds=START_SECONDS + cost(model, count, recipe).seconds(speed),
        loaders=FORMATS[recipe.format].loaded_by(recipe.scheme),
        notes=tuple(notes(model, recipe)),
    )


@dataclass(frozen=True)
class Layers:
    """Sums over the linears (N, K) to quantise: N K, N + K and N K K; and the number of blocks."""

    weights: int
    sides: int
    cubes: int
    blocks: int


def layers(model: OpenModel) -> Layers:
    """Counted on the skeleton."""
    shapes = [tuple(model.skeleton.get_submodule(name).weight.shape) for name in model.linears]
    blocks = len(model.skeleton.get_submodule(model.blocks))
    return Layers(sum(n * k for n, k in shapes), sum(map(sum, shapes)), sum(n * k * k for n, k in shapes), blocks)


def cost(model: OpenModel, count: Sizes, recipe: Recipe) -> Cost:
    """The work of a run. Its constants were fitted to blocks of SmolLM2 135M and Gemma 3 270M on an x86-64 CPU."""
    shape, data = layers(model), recipe.data
    total = Cost(passes=STORING * count.total) + COSTS[recipe.preset](shape, recipe, forward(shape, count, recipe))
    if data.source == SELF and recipe.method().needs_data:
        # One token of up to 16 sequences at a time: each reads every weight anew.
        total += Cost(passes=0.7 * count.total) * (data.length * -(-data.samples // 16))
    return total


def forward(shape: Layers, count: Sizes, recipe: Recipe) -> Cost:
    """All calibration tokens once through all blocks: products of weights and of attention, and activations."""
    products = 2 * shape.weights + 4 * recipe.data.length * count.hidden * shape.blocks
    return Cost(products, passes=2.5 * shape.sides) * (recipe.data.samples * recipe.data.length)


def moments(shape: Layers, recipe: Recipe) -> Cost:
    """The second moments of what every linear reads."""
    return Cost(float32=2 * shape.weights) * (recipe.data.samples * recipe.data.length)


def rtn_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Rounding each weight once."""
    return Cost(passes=10 * shape.weights)


def gptq_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams, the inputs of every set of linears, their moments, and the columns one by one."""
    return forward * 4 + moments(shape, recipe) + Cost(passes=170 * shape.weights)


def awq_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams and the statistics, then every weight rounded twice for each value on the search grid."""
    tried = recipe.method().grid
    return forward * 4 + moments(shape, recipe) + Cost(float32=2 * shape.cubes, passes=11 * shape.weights) * tried


def omniquant_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams; an epoch is three passes, one more over the samples that judge it, and weights made anew."""
    method, samples = recipe.method(), recipe.data.samples
    step = Cost(passes=(18 if method.transforms_weights(recipe.scheme) else 7) * shape.weights)
    epoch = forward * (3 + min(MEASURED, samples) / samples) + step * -(-samples // recipe.batch_size)
    return forward * 2 + Cost(passes=20 * shape.weights) + epoch * method.epochs


COSTS: dict[str, Callable[[Layers, Recipe, Cost], Cost]] = {
    "rtn": rtn_cost,
    "gptq": gptq_cost,
    "awq": awq_cost,
    "omniquant": omniquant_cost,
}
START_SECONDS = 2.0
"""Opening the model and its tokenizer."""
STORING = 10
"""Passes over every weight for hashing, packing, writing and reading back."""


def notes(model: OpenModel, recipe: Recipe) -> list[str]:
    """What the user should know before the run starts."""
    found = [f"{name} stays in floating point: {reason}" for name, reason in list(model.skipped.items())[:1]]
    if len(model.skipped) > 1:
        found[0] += f" (and {len(model.skipped) - 1} more linears)"
    found.append("token embeddings, output head and norms stay in floating point")
    if recipe.scheme.input and recipe.attention:
        found.append(attention_note(model.attention_hook, recipe.scheme))
    if recipe.scheme.input and any(type(model.skeleton.get_submodule(name)) is not nn.Linear for name in model.linears):
        found.append("this architecture has a linear class of its own: with quantised activations only omniq loads it")
    if recipe.data.source == SELF and recipe.method().needs_data:
        found.append("the model writes the calibration text itself, for which all of it is loaded into memory once")
    return found


def attention_note(hook: bool, scheme: LinearSpec) -> str:
    """What happens to q, k and v inside attention, and where it is honoured."""
    if not hook:
        return "this architecture's attention offers no way in: q, k and v inside it stay in floating point"
    return (
        f"q, k and v inside attention are quantised to {scheme.input.bits} bits as at calibration by omniq.load; "
        "transformers and vLLM quantise the inputs of linears only (use --no-attention to calibrate for that)"
    )
