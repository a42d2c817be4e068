"""What a run needs, from the model's headers alone: sizes, memory and which runtimes will load the result."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniq.errors import UnsupportedError, UsageError
from omniq.formats.base import FORMATS
from omniq.hf import OpenModel
from omniq.models.adapter import ADAPTERS
from omniq.recipe import Recipe
from omniq.report import Plan
from omniq.spec import LinearSpec

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
    form = FORMATS[recipe.format]
    for name in model.linears:
        layer = model.skeleton.get_submodule(name)
        try:
            recipe.scheme.weight.groups(layer.in_features)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
        reason = form.refuse(recipe.scheme, (layer.out_features, layer.in_features))
        if reason:
            raise UnsupportedError(f"format {recipe.format!r} cannot store {name} as {recipe.scheme}: {reason}")


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


def plan(model: OpenModel, label: str, recipe: Recipe, size_before: int) -> Plan:
    """The plan of a run on an opened model; what it cannot do raises."""
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
        loaders=FORMATS[recipe.format].loaded_by(recipe.scheme),
        notes=tuple(notes(model, recipe)),
    )


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
    if recipe.data.source == "self" and recipe.method().needs_data:
        found.append("no calibration text was given: the model writes its own, which loads all of it into memory once")
    return found


def attention_note(hook: bool, scheme: LinearSpec) -> str:
    """What happens to q, k and v inside attention, and where it is honoured."""
    if not hook:
        return "this architecture's attention offers no way in: q, k and v inside it stay in floating point"
    return (
        f"q, k and v inside attention are quantised to {scheme.input.bits} bits as at calibration by omniq.load; "
        "transformers and vLLM quantise the inputs of linears only (use --no-attention to calibrate for that)"
    )
