"""Checks that every format makes of the tensors it is given, before it uses a number of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from omniq.errors import ModelError, UnsupportedError
from omniq.spec import LinearSpec, QuantSpec


def check_tensor(
    tensors: Mapping[str, Tensor],
    name: str,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    spec: QuantSpec,
    place: str = "",
) -> None:
    """Raises ModelError unless the tensor has this shape and one of these dtypes, and no NaN or infinite values.

    place: what stands before the tensor's name in the checkpoint, for the error.
    """
    tensor = tensors[name]
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise ModelError(
            f"{place}{name} is {tensor.dtype} {list(tensor.shape)}; {spec} needs {wanted} {list(shape)}, so "
            "config.json is of another model or the checkpoint is damaged"
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise ModelError(
            f"{place}{name} has NaN or infinite values, not finite ones; the checkpoint is damaged, so write or copy "
            "it again"
        )


def check_leaves(tensors: Collection[str], wanted: Collection[str], spec: LinearSpec) -> None:
    """Raises ModelError unless the tensors of a layer are exactly those that its scheme asks for."""
    if set(tensors) != set(wanted):
        raise ModelError(
            f"a {spec} layer is stored as {', '.join(wanted)}, but this one has {', '.join(sorted(tensors))}; "
            "config.json is of another model"
        )


def weights_only(spec: LinearSpec) -> str | None:
    """Why a format that knows nothing but weights cannot store a layer of this spec, or None."""
    if spec == LinearSpec(spec.weight):
        return None
    what = "a transform of inputs" if spec.transform else f"activations of {spec.input.bits} bits"
    return f"it has no words for {what}; --format compressed-tensors has"


def setting(config: Mapping[str, object], key: str, kind: type, default: object) -> object:
    """A setting of a `quantization_config`, of the type it must have; absent or null means the default."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", str: "text"}[kind]
        raise ModelError(f"quantization_config: {key} is {value!r}; expected {words}, so config.json is damaged")
    return value


def group_size(config: Mapping[str, object], key: str = "group_size") -> int:
    """The size of groups that a `quantization_config` gives: -1 or a number from 1."""
    size = setting(config, key, int, 128)
    if size < 1 and size != -1:
        raise ModelError(f"quantization_config: {key} is {size}; expected -1 or a number from 1")
    return size


def refuse_settings(config: Mapping[str, object], keys: Collection[str], method: str) -> None:
    """Raises UnsupportedError for a setting that changes what a layer computes beyond what a spec can say."""
    for key in keys:
        if config.get(key):
            raise UnsupportedError(
                f"quantization_config of {method} asks for {key}, which omniq does not compute; load this checkpoint "
                "with the tool that made it"
            )


def on_cpu(weight: QuantSpec) -> str:
    """What gptqmodel's kernels cannot do without a GPU, as an addition to a sentence."""
    if weight.bits != 4 or weight.group_size != -1:
        return ""
    return ", but on a GPU only: on a CPU its kernel of 4 bits wants groups of 32 to 256"
