"""Every kernel that runs on the GPU, checked: one item, and one CSV row, for each kernel, scheme and dtype.

Called by gpu_check.py. An item covers many shapes (N, K) and numbers of rows M: error at most twice that of plain torch
in the same dtype, both against float64; memory poisoned with NaN before; the same bits 20 times, in a CUDA graph
replayed on other input, and on a second stream.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_check import append_rows, facts_of
from torch import Tensor

from omniq.grid import fake_quantize_tokens
from omniq.kernels.dispatch import KERNELS, Kernel
from omniq.kernels.reference import decoded
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

GPU = torch.device("cuda", 0)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GROUPS = (-1, 32, 64, 128)
ACTS = ("W4A8", "W4A4", "W4A8g128", "W4A4g128", "W8A8-asym", "W3A4g64-actasym", "W2A8-actasym")
RAGGED = ((1, 32), (5, 33), (129, 200), (33, 1000))
WHOLE = ((40, 384), (576, 1152), (1000, 4096))
ROWS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 129, 300)
REPEATS = 20
SMALL_SCHEMES = ("W4A16g128", "W4A16g32-asym", "W3A16-asym", "W2A16g64", "W8A16", "W4A8", "W4A4")


@dataclass(frozen=True)
class Item:
    """A kernel, a scheme and the dtype of the input."""

    kernel: str
    scheme: str
    dtype: str


def poison() -> None:
    """Makes memory that torch hands out hold NaN, so that an output nobody wrote is seen."""
    for owner, name in ((torch.Tensor, "new_empty"), (torch, "empty"), (torch, "empty_like")):
        original = getattr(owner, name)

        def poisoned(*args: Any, original: Any = original, **options: Any) -> Tensor:
            made = original(*args, **options)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        setattr(owner, name, poisoned)


def schemes() -> list[str]:
    """Every width, group and symmetry; then integer activations."""
    weights = [
        str(LinearSpec(QuantSpec(bits, group, symmetric)))
        for bits, group, symmetric in itertools.product((4, 3, 2, 8), GROUPS, (True, False))
    ]
    return weights + list(ACTS)


def items(small: bool) -> list[Item]:
    """What there is to check; kernels in turn, so that all get their share of the time."""
    names = [name for name in KERNELS if name not in ("reference", "torch_dequant")]
    chosen, dtypes = (SMALL_SCHEMES, ("bfloat16",)) if small else (schemes(), tuple(DTYPES))
    return [Item(n, s, d) for s, d, n in itertools.product(chosen, dtypes, names)]


def random_qtensor(spec: QuantSpec, shape: tuple[int, int], dtype: torch.dtype) -> QTensor:
    """Codes, zero points and scales over their whole ranges, of both signs when symmetric."""
    draw = torch.Generator().manual_seed(sum(shape))
    grid = (shape[0], spec.groups(shape[1]))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    scales = (0.5 + torch.rand(grid, generator=draw)) / (spec.mid * shape[1] ** 0.5)
    zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    if spec.symmetric:
        scales *= torch.randint(0, 2, grid, generator=draw) * 2 - 1
        zeros.fill_(spec.mid)
    return QTensor(codes, scales.to(dtype), zeros, spec)


class Layer:
    """A random weight (N, K) on one kernel."""

    def __init__(self, kernel: Kernel, spec: LinearSpec, shape: tuple[int, int], dtype: torch.dtype) -> None:
        q = random_qtensor(spec.weight, shape, dtype)
        self.kernel, self.spec, self.dtype = kernel, spec, dtype
        self.packed = {name: tensor.to(GPU) for name, tensor in kernel.prepack(q, spec).items()}
        self.exact = q.dequantize(torch.float64).to(GPU)

    def input(self, m: int, seed: int = 0) -> Tensor:
        """x (M, K)."""
        draw = torch.Generator(GPU).manual_seed(m + seed)
        return torch.randn(m, self.exact.shape[1], generator=draw, device=GPU).to(self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x (M, K) -> (M, N)."""
        return self.kernel.apply(x, self.packed, self.spec)

    def ratio(self, m: int) -> float:
        """The error over what is allowed: at most 1 is well, and NaN is not."""
        x = self.input(m)
        y = self(x)
        exact = decoded(x, self.spec.input, torch.float64) @ self.exact.T
        plain = (fake_quantize_tokens(x, self.spec.input) @ self.exact.to(self.dtype).T - exact).abs().max()
        # A few outputs may come out nearer in plain torch than anyone can promise: one step of the dtype is no error.
        allowed = torch.maximum(2 * plain, torch.finfo(self.dtype).eps * exact.abs().max())
        assert (y.dtype, y.shape) == (self.dtype, exact.shape), f"y is {y.dtype} {tuple(y.shape)}"
        return float((y.double() - exact).abs().max() / allowed)


def behaviour(layer: Layer, m: int) -> Iterator[str]:
    """What goes wrong with repeated calls, other streams and graphs."""
    x, other = layer.input(m), layer.input(m, seed=1)
    first, second = layer(x), layer(other)
    if not all(torch.equal(layer(x), first) for _ in range(REPEATS)):
        yield f"M={m}: not the same bits in {REPEATS} runs"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        beside = layer(x)
    torch.cuda.current_stream().wait_stream(side)
    if not torch.equal(beside, first):
        yield f"M={m}: another result on a second stream"
    graph, held = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        out = layer(held)
    for given, expected in ((x, first), (other, second)):
        held.copy_(given)
        out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        if not torch.equal(out, expected):
            yield f"M={m}: another result from a CUDA graph"


def shapes_for(kernel: Kernel, spec: LinearSpec, small: bool) -> list[tuple[int, int]]:
    """The shapes that the groups divide and the kernel takes."""
    whole = spec.weight.group_size == -1
    candidates = (((40, 384),) if small else WHOLE) + (((33, 200),) if small else RAGGED) * whole
    return [shape for shape in candidates if kernel.refuse(spec, shape, GPU) is None]


def checked(item: Item, small: bool) -> dict[str, Any]:
    """The row of an item."""
    spec, kernel = LinearSpec.parse(item.scheme), KERNELS[item.kernel]
    row = vars(item) | {"cases": 0, "worst_ratio": "", "state": "ok", "words": ""}
    if reason := kernel.refuse(spec, WHOLE[0], GPU):
        return row | {"state": "refused", "words": reason}
    worst, wrong = 0.0, []
    for shape in shapes_for(kernel, spec, small):
        layer = Layer(kernel, spec, shape, DTYPES[item.dtype])
        for m in (1, 9, 17) if small else ROWS:
            ratio = layer.ratio(m)
            row["cases"] += 1
            # An approximate kernel is not held to the rule, but to numbers.
            if not (ratio <= 1 or (kernel.approximate and ratio < float("inf"))):
                wrong.append(f"{shape} M={m}: {ratio:.3g} times the allowed error")
            worst = max(worst, ratio) if ratio == ratio else float("nan")
        if shape == WHOLE[-1]:
            wrong += [f"{shape} {what}" for m in (1, 16, 65) for what in behaviour(layer, m)]
    torch.cuda.synchronize()
    return row | {"worst_ratio": f"{worst:.3g}", "state": "failed" if wrong else "ok", "words": "; ".join(wrong)[:400]}


def absent() -> list[str]:
    """Compiled and Triton kernels that this GPU should run and does not, each with its reason."""
    spec = LinearSpec.parse("W4A16g128")
    reasons = {name: KERNELS[name].refuse(spec, WHOLE[0], GPU) for name in KERNELS if name.endswith("_wna16")}
    found = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    found += [f"{name}: {reason}" for name, reason in KERNELS.absent.items()]
    return found + [f"no kernel {name}" for name in ("cuda_wna16", "triton_wna16") if name not in KERNELS]


@torch.inference_mode()
def main() -> int:
    """Checks the items of one shard from --start on; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit")
    parser.add_argument("--shard", default="0/1", help="which of how many")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few small cases, as for compute-sanitizer")
    parser.add_argument("--present", action="store_true", help="only say which kernels should run here and do not")
    args = parser.parse_args()
    torch.set_num_threads(1)  # many of these processes run at once
    if args.present:
        print("; ".join(absent()) or "all kernels are there")
        return 1 if absent() else 0
    shard, shards = map(int, args.shard.split("/"))
    chosen = items(args.small)[shard::shards]
    columns, poor = facts_of(args.commit), 0
    poison()
    for index in range(args.start, len(chosen)):
        print(f"item {index} of {len(chosen)}: {chosen[index]}", flush=True)
        try:
            row = checked(chosen[index], args.small)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the finding, and goes into its row
            row = vars(chosen[index]) | {"cases": 0, "worst_ratio": "", "state": "failed"}
            row |= {"words": f"{type(error).__name__}: {error}"[:400]}
        if not args.small:
            append_rows(args.out / f"gpu_numerics_{shard}.csv", [row | columns])
        if row["state"] == "failed":
            poor += 1
            print(f"FAILED {row}", flush=True)
            torch.cuda.synchronize()  # after an illegal access this raises: a new process goes on with the next item
    print(f"finished all items: {poor} of {len(chosen) - args.start} failed")
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
