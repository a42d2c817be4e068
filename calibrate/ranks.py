"""Ranks: the processes that share the calibration samples of one run, and what they tell each other.

Process r of n holds the samples r, r + n, r + 2 n ...; sums over samples become sums over processes. What decides the
result is the same in all of them, since every process computes it from the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from omniq.errors import RankError, UsageError

Result = TypeVar("Result")
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, of which the first does some of the work alone."""


@dataclass(frozen=True)
class Ranks:
    """Process `index` of `count`. device: where its tensors are while they are sent."""

    index: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def own(self, rows: Tensor) -> Tensor:
        """Which of these samples of all (R,) this process holds, by their places among its own (r,)."""
        return rows[rows % self.count == self.index] // self.count

    def share(self, samples: int) -> int:
        """How many of the first `samples` of all this process holds."""
        return max(0, -(-(samples - self.index) // self.count))

    def sliced(self, ids: Tensor) -> Tensor:
        """ids (B, T) of all samples -> those of this process."""
        if len(ids) < self.count:
            raise UsageError(f"{self.count} processes cannot share {len(ids)} samples; start fewer or give more")
        return ids[self.index :: self.count]

    def sum(self, value: Tensor | None) -> Tensor | None:
        """The sum over all processes, on this one's device; None counts as nothing, and is the sum of nothing."""
        return self.sums([value])[0]

    def sums(self, values: Sequence[Tensor | None]) -> list[Tensor | None]:
        """sum() of each of several values, as many on every process."""
        if self.count == 1:
            return list(values)
        everywhere = self.gathered([None if value is None else (value.shape, value.dtype) for value in values])
        return [self._sum(value, *likes) for value, *likes in zip(values, *everywhere, strict=True)]

    def _sum(self, value: Tensor | None, *likes: tuple[torch.Size, torch.dtype] | None) -> Tensor | None:
        """likes: shape and dtype of what each process has."""
        like = next((one for one in likes if one is not None), None)
        if like is None:
            return None
        own = torch.zeros(like[0], dtype=like[1]) if value is None else value.detach().clone()
        sent = own.to(self.device).contiguous()
        with _reported():
            dist.all_reduce(sent)
        return sent if value is None else sent.to(value.device)

    def mean(self, total: float, count: float) -> float:
        """Sum of all totals over the sum of all counts."""
        total, count = self.sum(torch.tensor([total, count], dtype=torch.float64)).tolist()
        return total / count if count else float("nan")

    def all(self, fine: bool) -> bool:
        """Whether all processes say so."""
        return all(self.gathered(fine))

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in their order: plain values and small tensors."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with _reported():
            dist.all_gather_object(found, value)
        return found

    def tensors(self, own: Tensor | None) -> list[Tensor]:
        """What each process has of something small, in their order, without those that have none."""
        if self.count == 1:
            return [] if own is None else [own]
        found = self.gathered(None if own is None else own.detach().cpu())
        return [one.to(self.device if own is None else own.device) for one in found if one is not None]

    def told(self, value: Any) -> Any:
        """The first process's value."""
        if self.count == 1:
            return value
        held = [value]
        with _reported():
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Puts the first process's values into these tensors, which have the same shapes everywhere."""
        for tensor in tensors if self.count > 1 else ():
            sent = tensor.detach().to(self.device).contiguous()
            with _reported():
                dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def by_first(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in the first process, the only one that does it while the others wait.

        Its failure ends them all: itself there, a RankError here.
        """
        if self.first:
            try:
                found = work()
            except Exception:  # whatever it is, the others must not wait for it; it goes on its way here
                self.told((False, None))
                raise
            return self.told((True, found))[1]
        done, found = self.told(None)
        if not done:
            raise RankError("the first process of this job has stopped; its own message says why")
        return found


ALONE = Ranks()


@contextmanager
def launched(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun (or accelerate launch) started together; this one alone where none did.

    On GPUs each has one of its own, the device of what it gives.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Ranks(device=device)
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        own = torch.device("cuda", dist.get_node_local_rank()) if on_gpu else device
        yield Ranks(dist.get_rank(), dist.get_world_size(), own)
    finally:
        dist.destroy_process_group()


@contextmanager
def _reported() -> Iterator[None]:
    """Turns the failure of an exchange into a sentence: a process that the others waited for is gone."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        first = str(error).splitlines()[0][:200]
        raise RankError(
            f"another process of this job has gone ({first}); run the same command again to go on where it stopped, "
            "with any number of processes"
        ) from None
