"""The speed of every kernel on the GPU beside torch: an item for each scheme and shape, a CSV row per kernel and M.

Called by gpu_check.py. Calls are replayed in a CUDA graph over so many copies of the weight that none is found in the
level-2 cache, all kernels in turn; see omniq/bench.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from gpu_check import append_rows, facts_of

from omniq.bench.kernels import Sweep, weight_results
from omniq.bench.limits import matmul_rates
from omniq.bench.shapes import SHAPES, Shape
from omniq.spec import LinearSpec

GPU = torch.device("cuda", 0)
SECONDS = 0.06
"""For one cell, shared by all that take part."""
ROWS = (1, 16, 256, 2, 4, 8, 32, 64, 128, 512, 1024, 4096)
FEW_ROWS = (1, 16, 256, 8, 64, 1024)
SCHEMES = {"W4A16g128": ROWS, "W4A8": ROWS, "W2A16g128": FEW_ROWS, "W3A16g128": FEW_ROWS, "W4A4": FEW_ROWS}
FIRST: tuple[Shape, ...] = ((8192, 8192), (4096, 4096))


def items() -> list[tuple[str, Shape]]:
    """Scheme and shape; first those of the targets."""
    others = tuple(shape for shape in SHAPES["common"] if shape not in FIRST)
    return [(scheme, shape) for shapes in (FIRST, others) for shape in shapes for scheme in SCHEMES]


@torch.inference_mode()
def main() -> int:
    """Measures from item --start on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit")
    parser.add_argument("--start", type=int, default=0)
    args = parser.parse_args()
    columns, chosen = facts_of(args.commit), items()
    rates = matmul_rates(GPU, time.perf_counter, SECONDS)
    for index in range(args.start, len(chosen)):
        scheme, shape = chosen[index]
        print(f"item {index} of {len(chosen)}: {scheme} {shape}", flush=True)
        spec = LinearSpec.parse(scheme)
        sweep = Sweep(specs=(spec,), shapes=(shape,), rows=SCHEMES[scheme], device=GPU, seconds=SECONDS)
        for cell in weight_results(spec, shape, sweep.names(), rates, sweep, time.perf_counter):
            rows = [vars(result) | columns for result in cell if not result.reason]
            append_rows(args.out / "gpu_kernels.csv", rows)
            best = min(rows, key=lambda row: row["seconds"])
            print(f"  M={best['m']}: {best['kernel']} {best['seconds'] * 1e6:.1f} us", flush=True)
        torch.cuda.empty_cache()
    print("finished all items")
    return 0


if __name__ == "__main__":
    sys.exit(main())
