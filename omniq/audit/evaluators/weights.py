"""weights: did the change that unlearning made survive rounding? From stored codes and full-precision folders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from omniq.audit.base import EVALUATORS, WEIGHTS, Context, Evaluator, Found, Measurement, Metric, Missing
from omniq.audit.metrics.update import FAR, Rounded, rounded
from omniq.hf import OpenModel, open_model
from omniq.qtensor import QTensor
from omniq.runtime import quantized_linears
from omniq.subject.model import Subject


def _metric(name: str, summary: str) -> Metric:
    return Metric(name, summary, knowledge=0, family=WEIGHTS, combine="single")


FLIPS = _metric("code_flips", "share of stored codes that differ between the quantised original and this model")
MEDIAN = _metric("step_ratio_median", "median of |dW| over the quantiser's step")
P90 = _metric("step_ratio_p90", "90th percentile of |dW| over the quantiser's step")
HALF = _metric("below_half_step", "share of weights changed by less than half a step")
SHARE = _metric("step_share", "share of weights whose |dW| over the step lies in the range named")
PROJECTION = _metric("projection", "<dQ, dW> / ||dW||^2: 1 where rounding keeps the change in the mean")
COSINE = _metric("cosine", "between the change of the stored weights and that of the full-precision ones")
UPDATE = _metric("update_ratio", "||dW|| / ||W|| of the unlearned model against the original")

FRAMED = (MEDIAN, P90, HALF, SHARE, PROJECTION, COSINE)
"""What compares stored weights with full-precision ones, and so needs them to be those of the same layer."""

RANGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, np.inf)
NORM_TOLERANCE = 0.01
"""Storing norm weights in 16 bits changes them by 0.4 % at most."""

Pairs = Iterator[tuple[str, tuple[QTensor, QTensor]]]


def observe(_: Subject, context: Context) -> Found:
    """Of the unlearned model the size of the change; of a quantised one what rounding made of it."""
    original, unlearned = (open_model(context.folders[name]) for name in ("orig_fp", "unl_fp"))
    if context.role == "unl_fp":
        return update(original, unlearned)
    if context.control is None:
        return [Missing(metric.name, "", "needs the original under the same quantiser") for metric in (FLIPS, *FRAMED)]
    control, own = (open_model(context.folders[name], quantized=True) for name in (context.control, context.name))
    reason = unlike(control, own)
    if reason:
        return [Missing(metric.name, "", reason) for metric in (FLIPS, *FRAMED)]
    layers: dict[int, Rounded] = {}
    for name, (old, new) in stored_pairs(control, own):
        weights = (model.read(f"{name}.weight") for model in (original, unlearned))
        part, layer = rounded(*weights, old, new), layer_of(name, control.blocks)
        layers[layer] = layers[layer] + part if layer in layers else part
    whole = sum(list(layers.values())[1:], next(iter(layers.values())))
    sides = [(None, whole), *sorted(layers.items())]
    found: Found = [number(FLIPS, one.code_flips, layer) for layer, one in sides]
    reason = transformed(original, control, whole) or ("" if whole.update else "unlearning changed no weight")
    if reason:
        return [*found, *(Missing(metric.name, "", reason) for metric in FRAMED)]
    return [*found, *(one for layer, part in sides for one in framed(part, layer))]


def number(metric: Metric, value: float, layer: int | None, attribute: str = "") -> Measurement:
    """One number about a layer, or about all of them."""
    item = "all linears" if layer is None else f"linears of layer {layer}"
    return Measurement(metric, "", (item,), np.array([value]), attribute=attribute, layer=layer)


def framed(part: Rounded, layer: int | None) -> Found:
    """The FRAMED metrics of a layer, or of all; a layer that unlearning left alone has no direction of change."""
    found: Found = [
        number(MEDIAN, part.quantile(0.5), layer),
        number(P90, part.quantile(0.9), layer),
        number(HALF, part.below_half / part.weights, layer),
    ]
    if part.update:
        found += [number(PROJECTION, part.projection, layer), number(COSINE, part.cosine, layer)]
    if layer is None:
        found += [
            number(SHARE, part.share_between(low, high), None, f"{low:g} to {high:g}") for low, high in pairwise(RANGES)
        ]
    return found


def update(original: OpenModel, unlearned: OpenModel) -> Found:
    """||dW|| / ||W|| of every layer and of all linears."""
    sums: dict[int, np.ndarray] = {}
    for name in original.linears:
        w0, w1 = (model.read(f"{name}.weight").double() for model in (original, unlearned))
        layer = layer_of(name, original.blocks)
        part = np.array([float((w1 - w0).square().sum()), float(w0.square().sum())])
        sums[layer] = sums.get(layer, 0.0) + part
    sides = [(None, np.sum(list(sums.values()), 0)), *sorted(sums.items())]
    return [number(UPDATE, float(np.sqrt(change / size)), layer) for layer, (change, size) in sides if size]


def stored_pairs(control: OpenModel, own: OpenModel) -> Pairs:
    """Name and both stored weights of every quantised linear, one linear in memory at a time."""
    both = zip(quantized_linears(control).items(), quantized_linears(own).items(), strict=True)
    for (name, (old, _)), (_, (new, _)) in both:
        yield name, (old, new)


def unlike(control: OpenModel, own: OpenModel) -> str:
    """Why the codes of two checkpoints cannot be compared, '' where they can."""
    specs = [{name: spec.weight for name, spec in quantized_linears(model).specs.items()} for model in (control, own)]
    if specs[0].keys() != specs[1].keys():
        return f"{own.folder.name} and its control {control.folder.name} have other linears quantised"
    differing = next((name for name in specs[0] if specs[0][name] != specs[1][name]), None)
    if differing:
        return (
            f"{differing} is stored as {specs[1][differing]} in {own.folder.name}, as {specs[0][differing]} in its "
            f"control {control.folder.name}"
        )
    return ""


def transformed(original: OpenModel, control: OpenModel, whole: Rounded) -> str:
    """Why stored and full-precision weights are not those of the same layer, '' where they are."""
    vectors = [name for name, param in control.skeleton.named_parameters() if param.dim() == 1]
    for name in vectors:
        before, after = (model.read(name).float() for model in (original, control))
        if (before - after).abs().max() > NORM_TOLERANCE * before.abs().max():
            return (
                f"the quantiser folded a transformation into the weights ({name} of the control is not the original's)"
            )
    if whole.apart > FAR:
        return (
            "the quantiser folded a transformation into the weights (half of those of one linear moved by more than "
            f"{whole.apart:.1f} steps)"
        )
    return ""


def layer_of(name: str, blocks: str) -> int:
    """'model.layers.3.mlp.up_proj' -> 3."""
    return int(name.removeprefix(f"{blocks}.").split(".")[0])


EVALUATORS.add("weights")(
    Evaluator(
        observe,
        "what rounding leaves of the change that unlearning made: code flips, |dW| over the step, projection, cosine",
        (FLIPS, *FRAMED, UPDATE),
        roles=("unl_fp", "unl_q"),
    )
)
