"""Run as a program: every tensor that the CPU library reads or writes touches a page that may not be touched.

Tensors end (or start) exactly where a page without access begins (or ends), so that a single byte too far kills the
process with a segmentation fault; its caller sees that. Arguments: instruction sets. The last word printed is 'done'
where nothing happened.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from cpu_subjects import DTYPES, random_rows, random_weight
from torch import Tensor

from omniq.kernels.cpu import multiply, packed_shapes
from omniq.kernels.cpu_block import PackedBlock, PackedLayer, Shape
from omniq.kernels.cpu_layout import packed_weight
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.native import cpu_library
from omniq.spec import LinearSpec

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
KEPT: list[mmap.mmap] = []


def beside_a_wall(like: Tensor, side: str) -> Tensor:
    """A copy of `like` that ends at a page without access ('end') or starts behind one ('start')."""
    dense = like.contiguous()
    size = dense.numel() * dense.element_size()
    room = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    KEPT.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for wall in (base, base + PAGE + room):
        if LIBC.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE if side == "start" else PAGE + room - size
    copy = torch.frombuffer(memory, dtype=dense.dtype, count=dense.numel(), offset=offset).view(dense.shape)
    return copy.copy_(dense)


def linear(side: str) -> None:
    """Layers of every stored width, with odd sizes."""
    for scheme, k in (
        ("W2A16", 33),
        ("W3A16g20-asym", 60),
        ("W4A16g32-asym", 96),
        ("W8A16", 100),
        ("W4A8", 33),
        ("W3A8-actasym", 40),
    ):
        spec = LinearSpec.parse(scheme)
        for n in (1, 17, 65):
            for dtype in DTYPES:
                packed = packed_weight(random_weight(spec.weight, (n, k), dtype))
                packed = {name: beside_a_wall(tensor, side) for name, tensor in packed.items()}
                for m in (1, 2, 9):
                    x, y = (beside_a_wall(t, side) for t in (random_rows(m, k, dtype), torch.zeros(m, n, dtype=dtype)))
                    for kernel in ("cpu", "cpu_int8"):
                        multiply(x, packed, spec, KERNELS[kernel].digits[dtype], y)


def walled_block(side: str, asym: str) -> PackedBlock:
    """A block of odd sizes whose packed weights touch a wall."""
    sizes = {
        "q": (64, 40),
        "k": (32, 40),
        "v": (32, 40),
        "o": (40, 64),
        "gate": (72, 40),
        "up": (72, 40),
        "down": (40, 72),
    }
    spec = LinearSpec.parse(f"W4A16g8{asym}")
    layers = {}
    for name, size in sizes.items():
        packed = packed_weight(random_weight(spec.weight, size))
        assert packed["lines"].shape == packed_shapes(spec.weight, *size)[0]
        walled = {leaf: beside_a_wall(t, side) for leaf, t in packed.items()}
        layers[name] = PackedLayer(walled, spec.weight, torch.ones(size[0]))
    norms = {name: torch.ones(40) for name in ("input", "attention_output", "mlp", "mlp_output")}
    norms |= {name: torch.ones(32) for name in ("query", "key")}
    return PackedBlock(layers, norms, Shape(2, 1, 32, 1e-6, 0.2, "silu", 4))


def block(side: str) -> None:
    """Blocks over several numbers of tokens, and attention over several lengths."""
    for asym in ("", "-asym"):
        walled = walled_block(side, asym)
        for dtype in DTYPES:
            for batch, length in ((1, 1), (3, 1), (1, 9), (2, 17), (1, 70)):
                hidden, cosines, sines = (
                    beside_a_wall(torch.randn(shape).to(dtype), side)
                    for shape in ((batch, length, 40), (1, length, 32), (1, length, 32))
                )
                heads = [beside_a_wall(t, side) for t in walled.project(hidden, cosines, sines)]
                attended = beside_a_wall(walled.attend(*heads), side)
                walled.finish(hidden, attended)
                known = [beside_a_wall(torch.randn(batch, 1, length + 5, 32).to(dtype), side) for _ in range(2)]
                walled.attend(heads[0], *known)


for isa in sys.argv[1:]:
    if cpu_library()[0].omniq_cpu_use_isa(isa.encode()) == 0:
        for end in ("end", "start"):
            print(isa, end, flush=True)
            linear(end)
            block(end)
print("done")
