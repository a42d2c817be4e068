"""What rotating a model and searching clips mean for a plan: the specs of its linears, refusals, notes for the user."""

from __future__ import annotations

from dataclasses import replace

from omniq.errors import UnsupportedError, UsageError
from omniq.eval.size import human_bytes
from omniq.hf import OpenModel
from omniq.recipe import FEW_BITS, Recipe
from omniq.rotation.model import added_bytes
from omniq.rotation.plan import NONE
from omniq.spec import FLOAT_BITS, HADAMARD, HeadSpec, LinearSpec


def linear_specs(model: OpenModel, recipe: Recipe) -> dict[str, LinearSpec]:
    """What every linear of a model, rotated already, is to be quantised to, before anything is searched."""
    online = replace(recipe.scheme, transform=HADAMARD)
    return {name: online if name in model.online else recipe.scheme for name in model.linears}


def head_spec(model: OpenModel, recipe: Recipe) -> HeadSpec | None:
    """The grid of q, k and v inside attention, or None; q and k are transformed where other inputs are.

    Keys and values for a cache of few bits are always transformed and asymmetric: at 4 bits that takes the KL of
    SmolLM2 on WikiText-2's validation text from 0.28 to 0.06.
    """
    if recipe.kv_bits != FLOAT_BITS:
        if not model.attention_hook:
            raise UnsupportedError(
                f"kv_bits is {recipe.kv_bits}, but this architecture's attention offers no way in; leave it at "
                f"{FLOAT_BITS}"
            )
        return HeadSpec(recipe.kv_bits, symmetric=False, hadamard=True, queries=False)
    acts = recipe.scheme.input
    if acts is None or not recipe.attention or not model.attention_hook:
        return None
    return HeadSpec(acts.bits, acts.symmetric, acts.clip, hadamard=bool(model.online))


def attention_notes(model: OpenModel, recipe: Recipe) -> list[str]:
    """What happens to q, k and v inside attention, and where it is honoured."""
    heads = head_spec(model, recipe)
    if heads is None:
        asked = recipe.scheme.input is not None and recipe.attention
        lost = "this architecture's attention offers no way in: q, k and v inside it stay in floating point"
        return [lost] if asked else []
    elsewhere = (
        "transformers and vLLM round the inputs of linears only (use --no-attention to calibrate for that)"
        if heads.queries
        else "other loaders leave them in floating point"
    )
    return [f"{heads.said} by omniq.load as at calibration; {elsewhere}"]


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
