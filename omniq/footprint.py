"""What a run holds in memory: the peak of each stage, and where things live so that it stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.calibrate.allocation import fused_groups, is_expert
from omniq.calibrate.endtoend import memory as end_to_end
from omniq.calibrate.methods.omniquant import OmniQuant
from omniq.calibrate.methods.tuned import Default
from omniq.costs import Sizes, sizes
from omniq.errors import UsageError
from omniq.hf import OpenModel
from omniq.memory import Budget, available, in_units
from omniq.mixed import sensing_memory
from omniq.recipe import Recipe
from omniq.vocab.planning import WORKING_BYTES, planned_table, table_weights

FLOAT32, FLOAT64 = 4, 8
RUNTIME_BYTES = 490_000_000
"""Python, torch, transformers and an opened model, measured on Linux x86-64 with the CPU build of torch."""
ALLOCATOR_BYTES = 120_000_000
"""What the allocator keeps of tensors that are freed, where each is smaller than it hands back at once; measured."""


LIBRARIES = RUNTIME_BYTES + ALLOCATOR_BYTES


@dataclass(frozen=True)
class Lives:
    """Where things live during a run, and the bytes it then holds at most, on the host and on an accelerator.

    streams_on_disk: hidden states of the samples in files beside the output, not in memory. codes_in_memory: those of
    all blocks while scales are tuned end to end; else they are read again whenever their block's turn comes.
    """

    streams_on_disk: bool
    codes_in_memory: bool
    host: int
    device: int = 0

    def sentences(self, recipe: Recipe) -> tuple[str, ...]:
        """For people: what is read from where."""
        found = ["weights: read from the model's files a block at a time"]
        if recipe.needs_data:
            place = "in files beside the output" if self.streams_on_disk else "in main memory"
            found.append(f"hidden states of the samples: {place}")
        if recipe.method().finishing is not None:
            place = "in main memory" if self.codes_in_memory else "read again from the finished blocks, step by step"
            found.append(f"integers of all blocks, while scales are tuned end to end: {place}")
        return tuple(found)


WAYS = ((False, True), (True, True), (True, False))
"""streams_on_disk, codes_in_memory: the fastest first."""


def placement(model: OpenModel, recipe: Recipe, budget: Budget, on_device: bool = False, processes: int = 1) -> Lives:
    """The fastest way that stays within the budget; without one, within what is free just now if any way does.

    on_device: an accelerator does the work. processes: how many share the samples, on a machine each of its own.
    """
    ways = [footprint(model, recipe, *way, on_device, processes) for way in WAYS]
    host = available() if budget.host is None else budget.host
    fits = [way for way in ways if way.host <= host and (budget.device is None or way.device <= budget.device)]
    if fits:
        return fits[0]
    least = min(ways, key=lambda way: way.host)
    if budget.host is not None and least.host > budget.host:
        raise UsageError(
            f"max_memory allows {in_units(budget.host)}, and preset {recipe.preset!r} needs about "
            f"{in_units(least.host)} for this model even with hidden states on disk; allow that much, or use a smaller "
            "--batch-size, a shorter --length or preset rtn"
        )
    if budget.device is not None and least.device > budget.device:
        raise UsageError(
            f"max_memory allows {in_units(budget.device)} of the accelerator, and preset {recipe.preset!r} needs about "
            f"{in_units(least.device)} there; allow that much, or use a smaller --batch-size or a shorter --length"
        )
    return least


def footprint(
    model: OpenModel, recipe: Recipe, streams_on_disk: bool, codes_in_memory: bool, on_device: bool = False,
    processes: int = 1,
) -> Lives:  # fmt: skip
    """The peak of a run in which things live so."""
    count, data = sizes(model), recipe.data
    table = planned_table(model, recipe.embed_bits, recipe.embed_group_size, recipe.scheme.weight)
    tables, batch = table_weights(model, table), max(1, recipe.batch_size // processes)
    stream = FLOAT32 * -(-data.samples // processes) * data.length * count.hidden
    streams = 0 if streams_on_disk else STREAMS * stream
    kept = BATCHES if trains(recipe) else FORWARD if recipe.method().needs_data else 0
    working = block_bytes(model, count, recipe) + kept * FLOAT32 * batch * data.length * widest(model)
    rest = 0
    if recipe.avg_bits is not None:
        blocks = 1 if streams_on_disk else len(model.skeleton.get_submodule(model.blocks))
        rest = sensing_memory(recipe, count.largest_block, count.outside, count.hidden, blocks)
    finishing = 0
    if recipe.method().finishing is not None:
        finishing = _finishing(model, count, recipe, streams_on_disk, codes_in_memory) + streams // 2
    if not recipe.method().needs_data:
        host = max(working, rest, WORKING_BYTES * tables)
        own = FLOAT32 * count.largest_block if on_device else host
        return Lives(streams_on_disk, codes_in_memory, LIBRARIES + own, host if on_device else 0)
    entering = FLOAT32 * count.outside + WORKING_BYTES * tables
    device = max(entering, working, rest, finishing)
    host = max(entering + streams // STREAMS, streams + (count.largest_block * FLOAT32 if on_device else working))
    host = max(host, rest, finishing)
    return Lives(streams_on_disk, codes_in_memory, LIBRARIES + host, device if on_device else 0)


STREAMS = 5
"""Hidden states of all samples that are in memory together: two that enter a block, two that leave it, and a copy."""
FORWARD, BATCHES = 4, 12
"""Activations of a batch, as wide as the widest linear, that a block's forward pass keeps, and one with gradients."""


def trains(recipe: Recipe) -> bool:
    """Whether the preset takes gradients of a block."""
    method = recipe.method()
    return method.steps > 0 if isinstance(method, Default) else isinstance(method, OmniQuant) and method.epochs > 0


def widest(model: OpenModel) -> int:
    """The largest number of rows or columns of a linear."""
    return max(max(model.skeleton.get_submodule(name).weight.shape) for name in model.linears)


def block_bytes(model: OpenModel, count: Sizes, recipe: Recipe) -> int:
    """Bytes of the weights of the largest block and of all that a preset makes of them."""
    block = count.largest_block
    if recipe.preset == "rtn":
        return FLOAT32 * block * 7 // 5
    moments = _moments(model)
    if recipe.preset == "gptq":
        return FLOAT32 * block * 7 // 5 + max(_solving(*one) for one in moments)
    sums = FLOAT32 * sum(k * k * len(rows) for k, rows in moments)
    method = recipe.method()
    if not isinstance(method, Default):
        return FLOAT32 * block * (2 if recipe.preset == "awq" else 5) + (sums if recipe.preset == "awq" else 0)
    solving = max(_solving(*one) for one in moments) if method.compensate else 0
    return FLOAT32 * block * 3 + max(sums + solving, FLOAT32 * block * (7 if method.steps else 1))


def _moments(model: OpenModel) -> list[tuple[int, list[int]]]:
    """For every set of linears of block 0 that read one tensor: its width K, and the rows N of each."""
    prefix = f"{model.blocks}.0."
    names = [name for name in model.linears if name.startswith(prefix)]
    experts = [(name,) for name in names if is_expert(name, model.blocks)]
    others = tuple(name for name in names if not is_expert(name, model.blocks))
    sets = (*fused_groups(others, model.blocks, model.adapter, ()), *experts)
    shape = lambda name: model.skeleton.get_submodule(name).weight.shape  # noqa: E731
    return [(shape(names[0])[1], [shape(name)[0] for name in names]) for names in sets]


def _solving(k: int, rows: list[int]) -> int:
    """Bytes that solving for linears (N, K) of one input takes: its moments, their factor, and the weights twice."""
    return (2 * FLOAT32 + 2 * FLOAT64) * k * k + (2 * FLOAT32 + 1) * sum(rows) * k


def _finishing(model: OpenModel, count: Sizes, recipe: Recipe, streams_on_disk: bool, codes_in_memory: bool) -> int:
    """Bytes that tuning end to end takes beside the streams."""
    width = max(recipe.scheme.weight.group_size, 0) or count.hidden
    groups, words = count.linears // width, count.outside // count.hidden
    blocks = 1 if streams_on_disk else len(model.skeleton.get_submodule(model.blocks))
    weights = count.linears if codes_in_memory else 0
    shape = (weights, groups, count.largest_block, words, count.hidden, blocks, recipe.data.length)
    return end_to_end(recipe.method().finishing, *shape)
