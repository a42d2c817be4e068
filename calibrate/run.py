"""The calibration loop: a generator of quantised blocks, in order, that writes nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omniq.calibrate.capture import BlockCalls, block_inputs
from omniq.calibrate.heads import Heads, heads_of
from omniq.calibrate.method import Method
from omniq.calibrate.view import BlockView, Trace, activation_grids, noting_reached
from omniq.errors import ModelError
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, LinearSpec

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Subject:
    """The model to calibrate.

    skeleton: the causal LM with parameters on the meta device. blocks: path of its decoder blocks. read: parameter
    name -> tensor. specs: LinearSpec by full name of every linear to quantise. storage: dtype of scales and of
    unquantised tensors.
    """

    skeleton: nn.Module
    blocks: str
    read: Read
    specs: Mapping[str, LinearSpec]
    adapter: Adapter | None
    storage: torch.dtype

    def modules(self) -> nn.ModuleList:
        """The decoder blocks."""
        return self.skeleton.get_submodule(self.blocks)

    def heads(self) -> Heads | None:
        """The head layout, where a table says how to read it."""
        return heads_of(self.skeleton.config, self.adapter.rotary) if self.adapter else None


@dataclass(frozen=True)
class Streams:
    """What enters a block, (B, T, D) float32: `original` made by the original blocks, `quantized` by the quantised."""

    original: Tensor
    quantized: Tensor


@dataclass(frozen=True)
class Settings:
    """attention: grid of q, k, v inside attention. batch: sequences per forward. autocast: dtype of matrix products."""

    batch: int = 1
    attention: ActSpec | None = None
    autocast: torch.dtype | None = None
    device: torch.device = torch.device("cpu")
    seed: int = 0


@dataclass(frozen=True)
class QuantizedBlock:
    """One block's result. Iterating gives (full name, QTensor, LinearSpec) of every linear.

    floats: other parameters that folds changed, by full name, in the storage dtype. streams: what enters the next
    block; with it and the block's index a run can start anew from here. error: squared difference of the two streams
    relative to the original's power.
    """

    index: int
    linears: tuple[tuple[str, QTensor, LinearSpec], ...]
    floats: dict[str, Tensor]
    streams: Streams | None
    error: float | None
    seconds: float
    trace: Trace = field(default_factory=Trace)

    def __iter__(self) -> Iterator[tuple[str, QTensor, LinearSpec]]:
        return iter(self.linears)


def embed(subject: Subject, ids: Tensor, settings: Settings) -> tuple[BlockCalls, Streams]:
    """ids (B, T) -> how to call each block, and the hidden states that enter the first, held on the CPU.

    Reads the parameters outside the blocks (embeddings) for this pass only.
    """
    for owner in subject.skeleton.modules():
        owner._buffers.update({leaf: buffer.to(settings.device) for leaf, buffer in owner._buffers.items()})
    head = _head_names(subject.skeleton)
    names = [n for n, _ in subject.skeleton.named_parameters() if not n.startswith(subject.blocks + ".")]
    calls, parts = BlockCalls(settings.batch), []
    with _materialized(subject.skeleton, {n: subject.read(n) for n in names if n not in head}, settings.device):
        for chunk in ids.split(settings.batch):
            hidden, kwargs = block_inputs(subject.skeleton, subject.modules(), chunk.to(settings.device))
            calls.record(hidden.cpu(), kwargs)
            parts.append(hidden.cpu())
    hidden = torch.cat(parts)
    return calls, Streams(hidden, hidden)


def _head_names(skeleton: nn.Module) -> set[str]:
    """Parameters of the output head that are not also the embedding's: never reached before the first block."""
    head = skeleton.get_output_embeddings()
    if head is None or head.weight is skeleton.get_input_embeddings().weight:
        return set()
    names = {id(p): n for n, p in skeleton.named_parameters()}
    return {names[id(p)] for p in head.parameters() if id(p) in names}


class _materialized:
    """Gives named parameters real values inside the context and returns them to the meta device after it."""

    def __init__(
        self, module: nn.Module, values: Mapping[str, Tensor], device: torch.device = torch.device("cpu")
    ) -> None:
        self.module, self.values, self.device = module, values, device

    def __enter__(self) -> None:
        assign(
            self.module, {name: value.to(self.device, torch.float32, copy=True) for name, value in self.values.items()}
        )

    def __exit__(self, *_: object) -> None:
        assign(self.module, {name: torch.empty_like(value, device="meta") for name, value in self.values.items()})


def assign(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Replaces parameters of `module` by name; a tied parameter is replaced everywhere it appears."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for leaf, param in owner._parameters.items():
            if param is not None:
                places.setdefault(id(param), []).append((owner, leaf))
    wanted = {name: id(module.get_parameter(name)) for name in values}
    for name, value in values.items():
        param = nn.Parameter(value, requires_grad=False)
        for owner, leaf in places[wanted[name]]:
            owner._parameters[leaf] = param


def run(
    subject: Subject,
    method: Method,
    settings: Settings,
    calls: BlockCalls | None,
    start: int = 0,
    streams: Streams | None = None,
) -> Iterator[QuantizedBlock]:
    """Quantises the blocks from `start` on, one at a time; each yields before the next is read.

    calls and streams come from embed(), or streams from the block before `start`; both are None for a method that
    needs no data. Peak memory: one block in float32, what the method learns for it, and the streams.
    """
    heads = subject.heads()
    for index, module in enumerate(subject.modules()):
        if index < start:
            continue
        began = time.perf_counter()
        name = f"{subject.blocks}.{index}"
        values = {
            leaf: _checked(subject.read(f"{name}.{leaf}"), f"{name}.{leaf}") for leaf, _ in module.named_parameters()
        }
        with _materialized(module, values, settings.device):
            view = _view(subject, settings, heads, calls, index, name, module, streams)
            quantized = method.block(view)
            floats = _finished(view, quantized, values)
            streams = None if streams is None else _advanced(view, streams)
        linears = tuple((f"{name}.{n}", quantized[n], view.specs[n]) for n in view.specs)
        error = None if streams is None else _distance(streams)
        yield QuantizedBlock(index, linears, floats, streams, error, time.perf_counter() - began, view.trace)


def _view(
    subject: Subject,
    settings: Settings,
    heads: Heads | None,
    calls: BlockCalls | None,
    index: int,
    name: str,
    module: nn.Module,
    streams: Streams | None,
) -> BlockView:
    prefix = name + "."
    specs = {full.removeprefix(prefix): spec for full, spec in subject.specs.items() if full.startswith(prefix)}
    seed = int.from_bytes(hashlib.blake2b(f"{settings.seed}/{index}".encode(), digest_size=4).digest(), "little")
    torch.manual_seed(seed)
    view = BlockView(
        index, name, module, specs, subject.adapter, heads, calls,
        None if streams is None else streams.quantized, None,
        subject.storage, settings.attention, settings.autocast, seed,
    )  # fmt: skip
    if streams is not None:
        view.target = view.run(streams.original)
    return view


@torch.no_grad()
def _finished(view: BlockView, quantized: Mapping[str, QTensor], original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts what will be stored into the module, and returns the unquantised parameters that changed, by full name."""
    missing = [name for name in view.specs if name not in quantized]
    if missing:
        raise RuntimeError(f"the method left out {missing} of {view.name}")
    changed = {}
    for leaf, param in view.module.named_parameters():
        name = leaf.removesuffix(".weight")
        if name in quantized and leaf.endswith(".weight"):
            param.copy_(quantized[name].dequantize())
            continue
        stored = param.to(view.storage)
        if not torch.equal(param.cpu(), original[leaf].float()):
            changed[f"{view.name}.{leaf}"] = _checked(stored.cpu(), f"{view.name}.{leaf}")
            param.copy_(stored)
    return changed


def _advanced(view: BlockView, streams: Streams) -> Streams:
    """The streams after this block: the original's is the target already made."""
    with activation_grids(view.module, view.specs, view.attention), noting_reached(view.module, view.specs) as reached:
        advanced = Streams(view.target, view.run(streams.quantized))
    view.trace.unreached = tuple(name for name in view.specs if name not in reached)
    return advanced


def _distance(streams: Streams) -> float:
    return float(
        (streams.quantized - streams.original).square().mean() / streams.original.square().mean().clamp(min=1e-30)
    )


def _checked(tensor: Tensor, name: str) -> Tensor:
    """The tensor, or ModelError when it has NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        raise ModelError(
            f"{name} has NaN or infinite values; the checkpoint is damaged or the training that made it diverged"
        )
    return tensor
