"""What rotating a model and searching clips mean for a plan: the specs of its linears, refusals, notes for the user."""

from __future__ import annotations

from dataclasses import replace

from omniq.errors import UsageError
from omniq.eval.size import human_bytes
from omniq.hf import OpenModel
from omniq.recipe import FEW_BITS, Recipe
from omniq.rotation.model import added_bytes
from omniq.rotation.plan import NONE
from omniq.spec import HADAMARD, HeadSpec, LinearSpec


def linear_specs(model: OpenModel, recipe: Recipe) -> dict[str, LinearSpec]:
    """What every linear of a model, rotated already, is to be quantised to, before anything is searched."""
    online = replace(recipe.scheme, transform=HADAMARD)
    return {name: online if name in model.online else recipe.scheme for name in model.linears}


def head_spec(model: OpenModel, recipe: Recipe) -> HeadSpec | None:
    """The grid of q, k and v inside attention, or None; q and k are transformed where other inputs are."""
    acts = recipe.scheme.input
    if acts is None or not recipe.attention or not model.attention_hook:
        return None
    return HeadSpec(acts.bits, acts.symmetric, acts.clip, hadamard=bool(model.online))


def check_clips(recipe: Recipe) -> None:
    """Raises UsageError where there is nothing to search clips of, or nothing to search them on."""
    if recipe.clips and recipe.scheme.input is None:
        raise UsageError(
            f"search_clips looks for the range of activation grids, and {recipe.scheme} keeps activations in floating "
            "point; add for example --abits 4"
        )
    if recipe.clips and not recipe.method().needs_data:
        raise UsageError(f"search_clips needs calibration tokens, and preset {recipe.preset!r} uses none; use another")


def rotation_notes(model: OpenModel, recipe: Recipe) -> list[str]:
    """What the user should know about rotating and clipping before the run starts."""
    found = []
    if recipe.rotation == NONE and recipe.scheme.input is not None and recipe.scheme.input.bits <= FEW_BITS:
        found.append(
            f"activations of {recipe.scheme.input.bits} bits lose far less with --rotate inputs, which published "
            "presets leave out unless asked"
        )
    if recipe.clips:
        found.append(
            "activation grids are clipped by ratios searched on the calibration data; only omniq computes that"
        )
    if size := added_bytes(model):
        found.append(
            f"the output head, which shares the embedding's table, is stored on its own: {human_bytes(size)} more"
        )
    if model.online:
        found.append(f"{len(model.online)} linears transform their input at run time; only omniq loads the result")
    return found
