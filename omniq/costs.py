"""What the work of a run costs, from the model's headers and the recipe: operations, passes, and so its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omniq.calibrate.data import SELF
from omniq.calibrate.method import METHODS
from omniq.calibrate.methods.tuned import STATISTICS, Default
from omniq.calibrate.pieces.ranges import tries
from omniq.calibrate.training import MEASURED
from omniq.calibrate.tuning import JUDGED
from omniq.hf import OpenModel
from omniq.mixed import sensing_cost
from omniq.recipe import Recipe
from omniq.timing import Cost


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
    """The work of a run. Its constants were fitted to runs on SmolLM2 135M on two kinds of x86-64 CPU."""
    shape, data = layers(model), recipe.data
    total = Cost(passes=STORING * count.total) + COSTS[recipe.preset](shape, recipe, forward(shape, count, recipe))
    if recipe.avg_bits is not None:
        total += sensing_cost(forward(shape, count, recipe), shape.weights, count.outside, recipe)
    if data.source == SELF and recipe.needs_data:
        # One token of up to 16 sequences at a time: each reads every weight anew.
        total += Cost(passes=0.7 * count.total) * (data.length * -(-data.samples // 16))
    return total


def forward(shape: Layers, count: Sizes, recipe: Recipe) -> Cost:
    """All calibration tokens once through all blocks: products of weights and of attention, and activations."""
    products = 2 * shape.weights + 4 * recipe.data.length * count.hidden * shape.blocks
    return Cost(products, passes=2.1 * shape.sides) * (recipe.data.samples * recipe.data.length)


def trained(forward: Cost) -> Cost:
    """A forward pass and the backward pass behind it, which has twice its products but shares most other work."""
    return Cost(3 * forward.products, 3 * forward.float32, 1.6 * forward.passes)


def moments(shape: Layers, recipe: Recipe) -> Cost:
    """The second moments of what every linear reads."""
    return Cost(float32=1.35 * shape.weights) * (recipe.data.samples * recipe.data.length)


def rtn_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Rounding each weight once."""
    return Cost(passes=7 * shape.weights)


def gptq_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams, the inputs of every set of linears, their moments, and the columns one by one."""
    return forward * 4 + moments(shape, recipe) + Cost(passes=95 * shape.weights)


def awq_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams and the statistics, then every weight rounded twice for each value on the search grid."""
    tried = recipe.method().grid
    return forward * 4 + moments(shape, recipe) + Cost(float32=2 * shape.cubes, passes=3 * shape.weights) * tried


def omniquant_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams; an epoch forwards and backwards, again over the samples that judge it, and weights made anew."""
    method, samples = recipe.method(), recipe.data.samples
    step = Cost(passes=(8 if method.transforms_weights(recipe.scheme) else 4) * shape.weights)
    epoch = trained(forward) + forward * (min(MEASURED, samples) / samples) + step * -(-samples // recipe.batch_size)
    return forward * 2 + Cost(passes=13 * shape.weights) + epoch * method.epochs


def tuned_cost(shape: Layers, recipe: Recipe, forward: Cost) -> Cost:
    """Both streams; scales, ranges and integers searched; every step forwards and backwards, with logits end to end."""
    method, samples, length = recipe.method(), recipe.data.samples, recipe.data.length
    seen = min(1.0, STATISTICS / (samples * length))
    found = forward * (2 + seen) + moments(shape, recipe) * seen
    found += Cost(float32=2 * shape.cubes, passes=3 * shape.weights) * method.scaling
    found += Cost(passes=3 * shape.weights) * tries(recipe.scheme.weight)
    found += Cost(passes=95 * shape.weights * method.compensate)
    shown, judged = method.steps * min(method.batch, samples), JUDGED * min(MEASURED, samples) * bool(method.steps)
    found += trained(forward) * (shown / samples) + forward * (judged / samples)
    found += Cost(passes=16 * shape.weights) * method.steps
    rounds = -(-samples // method.final_batch)
    finishing = trained(forward) + forward + Cost(passes=13 * shape.weights) * rounds
    return found + finishing * method.final_epochs


COSTS: dict[str, Callable[[Layers, Recipe, Cost], Cost]] = {
    "rtn": rtn_cost,
    "gptq": gptq_cost,
    "awq": awq_cost,
    "omniquant": omniquant_cost,
} | {name: tuned_cost for name, method in METHODS.items() if issubclass(method, Default)}
START_SECONDS = 2.0
"""Opening the model and its tokenizer."""
STORING = 7
"""Passes over every weight for hashing, packing, writing and reading back."""
