"""rotated: an opened model as the same function with other weights, prepared for coarse grids before calibration.

Rotations spread outliers over all channels (QuaRot, arXiv:2404.00456; SpinQuant, arXiv:2405.16406). Those of the
residual stream and of the value heads fold into the weights; the input of a down projection, behind a nonlinearity,
and q and k, behind the rotary embedding, are transformed at run time.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

import torch
from torch import Tensor, nn

from omniq.errors import UnsupportedError
from omniq.hadamard import transformed
from omniq.hf import OpenModel
from omniq.models.adapter import Adapter, NormFold, Stream, UpFold, ValueFold
from omniq.rotation.plan import FOLD, INPUTS, NONE, ONLINE, Plan, plan_of, tables_of
from omniq.rotation.reader import RotatedReader


def refusal(model: OpenModel, mode: str) -> str | None:
    """Why a model cannot be rotated this way, as the rest of a sentence, or None."""
    if mode in (NONE, INPUTS):
        return None
    kind = model.config.model_type
    other = f"--rotate {INPUTS} transforms the inputs of its linears at run time instead"
    if model.adapter is None:
        return f"{kind} has no table in omniq/models that says what reads and writes its residual stream; {other}"
    if not isinstance(model.adapter.stream, Stream):
        return f"{kind}: {model.adapter.stream}; {other}"
    return None


def rotated(model: OpenModel, mode: str, seed: int) -> OpenModel:
    """The model with its weights read rotated; UnsupportedError when its architecture does not allow it.

    Changes the skeleton: an output head tied to the embedding parts from it, since the last norm's weight is folded
    into the head alone, and linears of `plan.online` transform their inputs.
    """
    if mode == NONE:
        return model
    if reason := refusal(model, mode):
        raise UnsupportedError(f"rotate {mode!r} on {reason}")
    plan = plan_of(model, mode, seed)
    if plan.untied:
        model = _untied(model)
    transform_inputs(model.skeleton, plan.online)
    adapter = None if model.adapter is None else remaining(model.adapter, mode)
    return replace(model, reader=_reader(model, plan), adapter=adapter, online=frozenset(plan.online))


def _reader(model: OpenModel, plan: Plan) -> RotatedReader:
    steps = {model.names[name]: tuple(found) for name, found in plan.steps.items()}
    exact = {model.names[f"{name}.weight"] for name in model.linears}
    outside = {name for name in plan.steps if not name.startswith(model.blocks + ".")}
    by_rows = {model.names[name] for name in outside}
    copies = {}
    if plan.untied:
        head, embedding = tables_of(model.skeleton)
        copies[model.names[head]] = model.names[embedding]
    return RotatedReader(model.reader, steps, copies, exact & steps.keys(), by_rows)


def _untied(model: OpenModel) -> OpenModel:
    """The model with an output head of its own, stored under the head's name."""
    name, _ = tables_of(model.skeleton)
    head = model.skeleton.get_output_embeddings()
    head.weight = nn.Parameter(torch.empty_like(head.weight), requires_grad=False)
    model.skeleton.config.tie_word_embeddings = False
    raw = {**model.raw, "tie_word_embeddings": False}
    return replace(model, tied=False, raw=raw, names={**model.names, name: name})


def added_bytes(model: OpenModel) -> int:
    """What rotating the model adds to its size: an output head that was tied to the embedding is stored on its own."""
    return model.reader.added_bytes() if isinstance(model.reader, RotatedReader) else 0


def remaining(adapter: Adapter, mode: str) -> Adapter:
    """The table without the folds whose scale would have to pass through a transform at run time."""
    crossed = {ONLINE: (UpFold,), INPUTS: (NormFold, ValueFold, UpFold), FOLD: ()}[mode]
    return replace(adapter, folds=tuple(fold for fold in adapter.folds if not isinstance(fold, crossed)))


def transform_inputs(skeleton: nn.Module, names: tuple[str, ...]) -> None:
    """From now on the named linears of `skeleton` see their inputs through a Hadamard transform.

    Linears that read the same tensor one after another (q, k, v) are given the same transformed one.
    """
    last: list = [lambda: None, None]

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if last[0]() is not args[0]:
            # A weak reference: the input itself is not kept alive, and a new tensor is never taken for an old one.
            last[:] = [weakref.ref(args[0]), transformed(args[0])]
        return (last[1], *args[1:])

    for name in names:
        skeleton.get_submodule(name).register_forward_pre_hook(hook)
