"""The calibration loop: a generator of quantised blocks, in order, that writes nothing."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omniq.calibrate.capture import BlockCalls, block_inputs
from omniq.calibrate.clips import clipped
from omniq.calibrate.fidelity import Fidelity, distance, fidelities, looked_at, sampling
from omniq.calibrate.finite import checked, running
from omniq.calibrate.heads import Heads, heads_of
from omniq.calibrate.hidden import Hidden, Room, filled, in_memory
from omniq.calibrate.method import Method
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.view import BlockView, Trace, activation_grids, noting_reached
from omniq.calibrate.watched import note_reached, watched
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import ActSpec, LinearSpec

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Subject:
    """The model to calibrate.

    skeleton: the causal LM with parameters on the meta device. blocks: path of its decoder blocks. read: parameter
    name -> tensor. specs: LinearSpec by full name of every linear to quantise. storage: dtype of scales. floats: of
    unquantised tensors; None: the same.
    """

    skeleton: nn.Module
    blocks: str
    read: Read
    specs: Mapping[str, LinearSpec]
    adapter: Adapter | None
    storage: torch.dtype
    floats: torch.dtype | None = None

    def modules(self) -> nn.ModuleList:
        """The decoder blocks."""
        return self.skeleton.get_submodule(self.blocks)

    def heads(self) -> Heads | None:
        """The head layout, where a table says how to read it."""
        return heads_of(self.skeleton.config, self.adapter.rotary) if self.adapter else None


@dataclass(frozen=True)
class Streams:
    """What enters a block, (B, T, D) float32: `original` made by the original blocks, `quantized` by the quantised."""

    original: Hidden
    quantized: Hidden


@dataclass(frozen=True)
class Settings:
    """attention: grid of q, k, v inside attention. batch: sequences per forward. autocast: dtype of matrix products.

    search_clips: choose the clip of every activation grid on what enters the block. room: makes place for hidden
    states. ranks: the processes that share the samples; B counts those of this one.
    """

    batch: int = 1
    attention: ActSpec | None = None
    autocast: torch.dtype | None = None
    device: torch.device = torch.device("cpu")
    seed: int = 0
    search_clips: bool = False
    room: Room = in_memory
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class QuantizedBlock:
    """One block's result. Iterating gives (full name, QTensor, LinearSpec) of every linear.

    floats: other parameters that folds changed, by full name, in the storage dtype. streams: what enters the next
    block; with it and the block's index a run can start anew from here. error: squared difference of the two streams
    relative to the original's power. fidelity: of every linear, by full name.
    """

    index: int
    linears: tuple[tuple[str, QTensor, LinearSpec], ...]
    floats: dict[str, Tensor]
    streams: Streams | None
    error: float | None
    seconds: float
    trace: Trace = field(default_factory=Trace)
    fidelity: Mapping[str, Fidelity] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, QTensor, LinearSpec]]:
        return iter(self.linears)


def embed(subject: Subject, ids: Tensor, settings: Settings) -> tuple[BlockCalls, Streams]:
    """ids (B, T) -> how to call each block, and the hidden states that enter the first, where settings.room puts them.

    Reads the parameters outside the blocks (embeddings) for this pass only.
    """
    for owner in subject.skeleton.modules():
        owner._buffers.update({leaf: buffer.to(settings.device) for leaf, buffer in owner._buffers.items()})
    head = _head_names(subject.skeleton)
    names = [n for n, _ in subject.skeleton.named_parameters() if not n.startswith(subject.blocks + ".")]
    calls = BlockCalls(settings.batch)

    def entering(chunk: Tensor) -> Tensor:
        hidden, kwargs = block_inputs(subject.skeleton, subject.modules(), chunk.to(settings.device))
        calls.record(hidden.cpu(), kwargs)
        return hidden.cpu()

    with materialized(subject.skeleton, [n for n in names if n not in head], checked_reader(subject), settings.device):
        hidden = filled(settings.room, len(ids), map(entering, ids.split(settings.batch)))
    return calls, Streams(hidden, hidden)


def _head_names(skeleton: nn.Module) -> set[str]:
    """Parameters of the output head that are not also the embedding's: never reached before the first block."""
    head = skeleton.get_output_embeddings()
    if head is None or head.weight is skeleton.get_input_embeddings().weight:
        return set()
    names = {id(p): n for n, p in skeleton.named_parameters()}
    return {names[id(p)] for p in head.parameters() if id(p) in names}


class materialized:
    """Gives named parameters real float32 values inside the context and puts the meta ones back after it.

    They are read one at a time: of the stored form there is never more than one tensor in memory.
    """

    def __init__(self, module: nn.Module, names: Iterable[str], read: Read, device: torch.device) -> None:
        self.module, self.read, self.device = module, read, device
        self.kept = {name: module.get_parameter(name) for name in names}

    def __enter__(self) -> None:
        assign(self.module, ((name, self._value(name)) for name in self.kept))

    def _value(self, name: str) -> Tensor:
        return self.read(name).to(self.device, torch.float32, copy=True)

    def __exit__(self, *_: object) -> None:
        assign(self.module, self.kept.items())


def assign(module: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Replaces parameters of `module` by name, one after another; a tied one is replaced everywhere it appears."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for leaf, param in owner._parameters.items():
            if param is not None:
                places.setdefault(id(param), []).append((owner, leaf))
    known = {name: id(param) for name, param in module.named_parameters(remove_duplicate=False)}
    for name, value in values:
        param = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
        for owner, leaf in places[known[name]]:
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
    needs no data. Peak memory: one block in float32, what the method learns for it, and three streams where these are
    in memory. Every process of settings.ranks yields the same linears, and the streams of its own samples.
    """
    heads = subject.heads()
    for index in range(start, len(subject.modules())):
        began, module = time.perf_counter(), subject.modules()[index]
        read = checked_reader(subject, f"{subject.blocks}.{index}.")
        with materialized(module, [leaf for leaf, _ in module.named_parameters()], read, settings.device):
            view = _view(subject, settings, heads, calls, index, streams)
            # A stream is as large as the whole text, so none is held longer than needed.
            streams = None
            if settings.search_clips and view.inputs is not None:
                view.specs = clipped(view)
            block = _quantized(view, method, read, began)
        del view
        streams = block.streams
        yield block
        del block


def checked_reader(subject: Subject, prefix: str = "") -> Read:
    """Reads the parameters below `prefix`, without the prefix, and refuses those that are not numbers."""
    return lambda name: checked(subject.read(prefix + name), prefix + name)


def _quantized(view: BlockView, method: Method, read: Read, began: float) -> QuantizedBlock:
    quantized = watched(method, view)
    view.ranks.same([part for q in quantized.values() for part in (q.codes, q.scales, q.zeros)])
    view.ranks.same(list(view.module.parameters()))
    if view.target is None:
        found = fidelities(quantized, view.specs, lambda name: looked_at(view.linear(name).weight), {})
        floats, streams, error = _finished(view, quantized, read, {}), None, None
    else:
        exact: dict[str, Tensor] = {}
        floats = _finished(view, quantized, read, exact)
        streams, rows = _advanced(view)
        found = fidelities(quantized, view.specs, lambda name: _exact(view, exact, read, name), rows)
        error = distance(streams.quantized, streams.original, view.ranks)
    linears = tuple((f"{view.name}.{n}", quantized[n], view.specs[n]) for n in view.specs)
    fidelity = {f"{view.name}.{name}": one for name, one in found.items()}
    seconds = time.perf_counter() - began
    return QuantizedBlock(view.index, linears, floats, streams, error, seconds, view.trace, fidelity)


def _exact(view: BlockView, kept: dict[str, Tensor], read: Read, name: str) -> Tensor:
    """What is looked at of the weight (n, K) behind a linear's codes: kept, or read where nothing was folded."""
    if name in kept:
        return kept.pop(name)
    return looked_at(read(f"{name}.weight")).to(view.linear(name).weight.device, torch.float32)


def _view(
    subject: Subject,
    settings: Settings,
    heads: Heads | None,
    calls: BlockCalls | None,
    index: int,
    streams: Streams | None,
) -> BlockView:
    name, module = f"{subject.blocks}.{index}", subject.modules()[index]
    prefix = name + "."
    specs = {full.removeprefix(prefix): spec for full, spec in subject.specs.items() if full.startswith(prefix)}
    seed = int.from_bytes(hashlib.blake2b(f"{settings.seed}/{index}".encode(), digest_size=4).digest(), "little")
    torch.manual_seed(seed)
    view = BlockView(
        index, name, module, specs, subject.adapter, heads, calls,
        None if streams is None else streams.quantized, None,
        subject.storage, settings.attention, settings.autocast, seed, floats=subject.floats, room=settings.room,
        ranks=settings.ranks,
    )  # fmt: skip
    if streams is not None:
        view.target = view.run(streams.original)
        running(view.target, f"{name} of the original model")
    return view


@torch.no_grad()
def _finished(
    view: BlockView, quantized: Mapping[str, QTensor], read: Read, exact: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Puts what will be stored into the module, and returns the unquantised parameters that changed, by full name.

    What they were is read once more rather than kept while the method works. exact: given, where there are data, what
    is looked at of the weights that rounding replaces, as folded; not of those that the method itself had replaced,
    which no method does that folds.
    """
    missing = [name for name in view.specs if name not in quantized]
    if missing:
        raise RuntimeError(f"the method left out {missing} of {view.name}")
    changed = {}
    for leaf, param in view.module.named_parameters():
        name = leaf.removesuffix(".weight")
        if name in quantized and leaf.endswith(".weight"):
            stored = quantized[name].dequantize()
            if view.target is not None and not torch.equal(stored, param):
                exact[name] = looked_at(param).clone()
            param.copy_(stored)
            continue
        stored = param.to(view.floats or view.storage)
        if not torch.equal(param.cpu(), read(leaf).float()):
            changed[f"{view.name}.{leaf}"] = checked(stored.cpu(), f"{view.name}.{leaf}")
            param.copy_(stored)
    return changed


def _advanced(view: BlockView) -> tuple[Streams, dict[str, Tensor]]:
    """The streams after this block, the original's being the target already made, and rows that each linear read."""
    with (
        sampling(view.module, view.specs, view.batch_count()) as rows,
        activation_grids(view.module, view.specs, view.attention),
        noting_reached(view.module, view.specs) as reached,
    ):
        quantized = view.run(view.inputs)
    view.trace.trouble.largest = max(view.ranks.gathered(running(quantized, f"{view.name}, quantised,")))
    note_reached(view, sum(view.ranks.gathered(reached), Counter()))
    found = {name: view.ranks.tensors(rows.get(name)) for name in view.specs}
    return Streams(view.target, quantized), {name: torch.cat(parts) for name, parts in found.items() if parts}
