"""BlockView: all that a method may see and change of one decoder block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from omniq.attention import set_attention
from omniq.calibrate.capture import BlockCalls
from omniq.calibrate.heads import Heads
from omniq.calibrate.hidden import Hidden, Room, filled, in_memory
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.stats import Statistic, watching
from omniq.calibrate.trouble import Trouble
from omniq.grid import fake_quantize_tokens
from omniq.models.adapter import Adapter
from omniq.spec import ActSpec, LinearSpec


class _Reached(Exception):
    """Raised inside a forward pass once it has shown what it was run for."""


@contextmanager
def quantized_inputs(module: nn.Module, specs: Mapping[str, LinearSpec]) -> Iterator[None]:
    """While open, the named linears of `module` see their inputs through their per-token grid.

    Linears that read the same tensor (q, k, v) share one quantised copy.
    """
    last: list[tuple[Tensor, ActSpec, Tensor]] = []

    def quantize(spec: ActSpec) -> Callable[..., tuple[Tensor, ...]]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if not (last and last[0][0] is args[0] and last[0][1] == spec):
                last[:] = [(args[0], spec, fake_quantize_tokens(args[0], spec))]
            return (last[0][2], *args[1:])

        return hook

    handles = [
        module.get_submodule(name).register_forward_pre_hook(quantize(spec.input))
        for name, spec in specs.items()
        if spec.input is not None
    ]
    try:
        yield
    finally:
        last.clear()
        for handle in handles:
            handle.remove()


@contextmanager
def noting_reached(module: nn.Module, names: Iterable[str]) -> Iterator[Counter[str]]:
    """While open, counts the tokens that each of the named linears is given."""
    reached: Counter[str] = Counter()

    def note(name: str) -> Callable[..., None]:
        return lambda _module, args: reached.update({name: args[0].shape[:-1].numel()})

    handles = [module.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


def precision(device: torch.device, fast: torch.dtype | None) -> AbstractContextManager[None]:
    """While open, matrix products on `device` are made in `fast`; None leaves them in float32."""
    return torch.autocast(device.type, dtype=fast or torch.bfloat16, enabled=fast is not None)


@dataclass
class Trace:
    """What happened in a block.

    before, after: loss relative to the target's power. skipped_steps: training steps that were not finite. unreached:
    linears that no calibration token reached (experts never chosen), whose numbers rest on the weights alone. trouble:
    what else was out of the ordinary.
    """

    before: float | None = None
    after: float | None = None
    skipped_steps: int = 0
    unreached: tuple[str, ...] = ()
    trouble: Trouble = field(default_factory=Trouble)


@dataclass
class BlockView:
    """One decoder block under calibration.

    module: its parameters in float32, changed in place by folds. specs: LinearSpec by linear name inside the block.
    inputs: what the quantised predecessors produced (B, T, D). target: the original block on the original model's
    stream (B, T, D). augmented: the original block on `inputs`, made on demand. All three are None without data.
    storage: dtype of scales in the checkpoint. attention: grid of q, k, v inside attention. floats: dtype of what is
    not quantised; None: as scales. room: makes place for hidden states. ranks: the processes that share the samples.
    """

    index: int
    name: str
    module: nn.Module
    specs: dict[str, LinearSpec]
    adapter: Adapter | None
    heads: Heads | None
    calls: BlockCalls | None
    inputs: Hidden | None
    target: Hidden | None
    storage: torch.dtype
    attention: ActSpec | None
    autocast: torch.dtype | None
    seed: int
    trace: Trace = field(default_factory=Trace)
    floats: torch.dtype | None = None
    room: Room = in_memory
    ranks: Ranks = ALONE

    def linear(self, name: str) -> nn.Linear:
        """A linear layer by its name inside the block."""
        return self.module.get_submodule(name)

    def precision(self) -> AbstractContextManager[None]:
        """Autocast to the fast dtype, or nothing."""
        return precision(next(self.module.parameters()).device, self.autocast)

    def quantized_activations(self) -> AbstractContextManager[None]:
        """While open, linears quantise their inputs and attention its q, k and v, as at run time."""
        return activation_grids(self.module, self.specs, self.attention)

    def batch_count(self) -> int:
        """How many batches all processes have together."""
        return sum(self.ranks.gathered(-(-len(self.inputs) // self.calls.batch)))

    def batches(self, *streams: Hidden) -> Iterator[tuple[Tensor, ...]]:
        """Aligned batches (b, T, D) of the given streams (B, T, D); none of no sequence, a process's share at times."""
        return zip(*(stream.split(self.calls.batch) for stream in streams if len(stream)), strict=True)

    def call(self, hidden: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """hidden (b, T, D) -> output (b, T, D) float32; `params` replace parameters of the same name for this call."""
        device = next(self.module.parameters()).device

        def block(x: Tensor, **kwargs: object) -> object:
            if params is None:
                return self.module(x, **kwargs)
            return torch.func.functional_call(self.module, dict(params), (x,), kwargs)

        with self.precision():
            return self.calls.forward(self.index, block, hidden.to(device)).float()

    @torch.no_grad()
    def run(self, stream: Hidden) -> Hidden:
        """stream (B, T, D) through the block as it stands -> (B, T, D) float32."""
        return filled(self.room, len(stream), (self.call(batch) for (batch,) in self.batches(stream)))

    @torch.no_grad()
    def observe(
        self,
        stream: Hidden,
        inputs: Mapping[str, Iterable[Statistic]],
        outputs: Mapping[str, Iterable[Statistic]] | None = None,
    ) -> None:
        """Feeds statistics with inputs and outputs of submodules while `stream` (B, T, D) runs through the block.

        In the end they hold what all processes saw.
        """
        with watching(self.module, dict(inputs), dict(outputs or {})):
            for (batch,) in self.batches(stream):
                self.call(batch)
        stats = chain(*inputs.values(), *(outputs or {}).values())
        for stat in {id(stat): stat for stat in stats}.values():
            stat.combine(self.ranks)

    @torch.no_grad()
    def observe_input(self, stream: Hidden, name: str, stat: Statistic) -> None:
        """Feeds one statistic with the input of one linear; each batch stops there, since nothing after it matters."""

        def feed(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            flat = args[0].reshape(-1, args[0].shape[-1]).float()
            if flat.shape[0]:
                stat.update(flat)
            raise _Reached

        handle = self.linear(name).register_forward_pre_hook(feed)
        for (batch,) in self.batches(stream):
            with suppress(_Reached):
                self.call(batch)
        handle.remove()
        stat.combine(self.ranks)

    def reading_order(self) -> list[list[str]]:
        """Linears grouped by the tensor they read, in the order the block computes them; from the first batch."""
        seen: list[tuple[Tensor, list[str]]] = []

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                if seen and seen[-1][0] is args[0]:
                    seen[-1][1].append(name)
                else:
                    seen.append((args[0], [name]))

            return hook

        handles = [self.linear(name).register_forward_pre_hook(note(name)) for name in self.specs]
        with torch.no_grad():
            self.call(next(iter(self.inputs.split(self.calls.batch))))
        for handle in handles:
            handle.remove()
        order = self.ranks.told([names for _, names in seen])
        reached = {name for names in order for name in names}
        return order + [[name] for name in self.specs if name not in reached]


@contextmanager
def activation_grids(module: nn.Module, specs: Mapping[str, LinearSpec], attention: ActSpec | None) -> Iterator[None]:
    """While open, `module` quantises activations: inputs of the named linears, and q, k, v inside attention."""
    set_attention(module, attention)
    try:
        with quantized_inputs(module, specs):
            yield
    finally:
        set_attention(module, None)
