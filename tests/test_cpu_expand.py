"""The CPU library's way for many rows: the weight expanded into torch's own product."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_kernels import random_qtensor

from omniq.kernels import cpu
from omniq.kernels.cpu import Cpu, multiply_expanded
from omniq.kernels.native import missing
from omniq.spec import LinearSpec

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
SCHEMES = [f"W{b}A16{g}{a}" for b, g, a in itertools.product((2, 3, 4, 6, 8), ("", "g32", "g48"), ("", "-asym"))]


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512vnni"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_expanded_weights_are_the_weights(scheme: str, isa: str, use_isa, monkeypatch: pytest.MonkeyPatch) -> None:
    use_isa(isa)
    monkeypatch.setattr(cpu, "EXPANDED", 64 * 96)  # several pieces
    spec, kernel = LinearSpec.parse(scheme), Cpu()
    for n, k in ((64, 96), (37, 480), (130, 288), (1, 96)):
        q = random_qtensor(spec.weight, (n, k), torch.bfloat16)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            y = torch.full((k, n), float("nan"), dtype=dtype)
            multiply_expanded(torch.eye(k, dtype=dtype), kernel.prepack(q, spec), spec, y)
            assert torch.equal(y.T, q.dequantize(torch.float32).to(dtype)), (n, k, dtype)


@pytest.mark.parametrize("bfloat16", [True, False], ids=["with bfloat16 products", "without"])
def test_it_is_taken_from_the_crossover_on_where_the_processor_multiplies_bfloat16(
    bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(cpu, "cpu_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(cpu, "multiply_expanded", lambda x, packed, spec, y: taken.append(x.shape[0]))
    for spec in (LinearSpec.parse("W4A16g32"), LinearSpec.parse("W4A8g32")):
        packed = Cpu().prepack(random_qtensor(spec.weight, (16, 32), torch.bfloat16), spec)
        for dtype, rows in itertools.product((torch.bfloat16, torch.float32), (cpu.CROSSOVER - 1, cpu.CROSSOVER)):
            Cpu().apply(torch.zeros(rows, 32, dtype=dtype), packed, spec)
    assert taken == ([cpu.CROSSOVER] if bfloat16 else [])
