"""Mixed bits: which linear gets how many under a budget, measured once a run and kept in its work folder."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from omniq.calibrate.allocation import allocate, fused_groups
from omniq.calibrate.run import Settings, Subject
from omniq.calibrate.sensitivity import HEAD_TOKENS, measured_shape, sensitivities
from omniq.errors import UnsupportedError
from omniq.formats.base import FORMATS, Format
from omniq.hf import OpenModel
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.timing import Cost
from omniq.work import Work

FACT = "bits"
FLOAT32 = 4


def check_mixed(model: OpenModel, recipe: Recipe) -> None:
    """Raises UnsupportedError, naming a format that can, when the recipe's cannot store the bits to choose from."""
    reason = _refusal(FORMATS[recipe.format], model, recipe)
    if reason is None:
        return
    able = [name for name, form in FORMATS.items() if _refusal(form, model, recipe) is None]
    instead = f"; --format {able[0]} can" if able else ""
    raise UnsupportedError(f"avg_bits: format {recipe.format!r} {reason}{instead}")


def _refusal(form: Format, model: OpenModel, recipe: Recipe) -> str | None:
    return form.refuse_mixed(recipe.candidates(), model.has_own_linears())


def allocated(
    work: Work, subject: Subject, ids: Tensor | None, settings: Settings, recipe: Recipe
) -> Mapping[str, LinearSpec]:
    """The spec of every linear: the subject's own, or with the bits that fit a budget best.

    ids: calibration tokens (B, T). A run that goes on takes what it had chosen before, from the work folder.
    """
    if recipe.avg_bits is None:
        return subject.specs
    facts = work.allocation()
    if facts is None:
        facts = {FACT: json.dumps(chosen_bits(subject, ids, settings, recipe))}
        work.save_allocation(facts)
    bits = json.loads(facts[FACT])
    return {name: spec.with_bits(bits[name]) for name, spec in subject.specs.items()}


def chosen_bits(subject: Subject, ids: Tensor, settings: Settings, recipe: Recipe) -> dict[str, int]:
    """Weight bits by linear with the least summed sensitivity within the budget; fused linears have the same."""
    grids = [spec.weight for spec in recipe.candidates()]
    samples, _ = measured_shape(*ids.shape)
    found = sensitivities(subject, ids[:samples], settings, grids)
    groups = fused_groups(tuple(subject.specs), subject.blocks, subject.adapter, found.together)
    weights = [sum(subject.skeleton.get_submodule(name).weight.numel() for name in group) for group in groups]
    losses = [[sum(found.losses[name][i] for name in group) for i in range(len(grids))] for group in groups]
    bits = allocate(weights, losses, recipe.bits_choices, recipe.avg_bits)
    return {name: chosen for group, chosen in zip(groups, bits, strict=True) for name in group}


def sensing_memory(recipe: Recipe, block: int, outside: int, hidden: int, blocks: int) -> int:
    """Bytes that measuring needs, from numbers of weights and the hidden size: see omniq.calibrate.sensitivity."""
    samples, length = measured_shape(recipe.data.samples, recipe.data.length)
    logits = min(length, HEAD_TOKENS) * outside // hidden
    return FLOAT32 * int(
        max((2 + len(recipe.bits_choices) / 2) * block, outside + 4 * logits) + (blocks + 3) * samples * length * hidden
    )


def sensing_cost(forward: Cost, weights: int, outside: int, recipe: Recipe) -> Cost:
    """The work of measuring: forwards, forwards again, backwards and gradients; each choice's rounding errors, and
    their products with every sequence's gradients. forward: of all tokens.
    """
    samples, length = measured_shape(recipe.data.samples, recipe.data.length)
    rounding = Cost(passes=weights * (10 + 3 * samples)) * len(recipe.bits_choices)
    head = Cost(6 * outside, passes=outside / 100) * (samples * length)
    return forward * (4 * samples / recipe.data.samples) + rounding + head


def average_bits(model: OpenModel, specs: Mapping[str, LinearSpec]) -> float:
    """Mean bits of a weight's code over all linears."""
    counts = {name: model.skeleton.get_submodule(name).weight.numel() for name in specs}
    return sum(specs[name].weight.bits * count for name, count in counts.items()) / sum(counts.values())


def allocation_in_words(model: OpenModel, specs: Mapping[str, LinearSpec]) -> str:
    """'2 bits: 24 linears (31 % of the weights), 4 bits: 60 linears (69 %); 3.38 bits on average'."""
    shares: dict[int, list[int]] = {}
    for name, spec in specs.items():
        shares.setdefault(spec.weight.bits, []).append(model.skeleton.get_submodule(name).weight.numel())
    total = sum(map(sum, shares.values()))
    parts = [
        f"{bits} bits: {len(sizes)} linear{'s' * (len(sizes) > 1)} ({sum(sizes) / total:.0%} of the weights)"
        for bits, sizes in sorted(shares.items())
    ]
    return f"{', '.join(parts)}; {average_bits(model, specs):.3f} bits of a code on average"
