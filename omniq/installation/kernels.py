"""Kernels: what is compiled, what each kernel runs here, and whether it computes what the reference does."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniq.errors import OmniqError
from omniq.grid import fake_quantize_tokens
from omniq.installation.finding import Finding, note, ok, problem
from omniq.kernels import cuda_library, native
from omniq.kernels.dispatch import KERNELS, Kernel
from omniq.kernels.reference import decoded
from omniq.kernels.shared_library import library_path
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

TYPICAL = (4096, 4096)
SCHEMES = ("W4A16g32", "W3A16g32", "W2A16g32", "W4A8g32", "W4A4")
SMALL, ROWS = (64, 128), (1, 5)
"""(N, K) of the matrix that kernels are tried on, and M of its inputs."""
APPROXIMATE = 0.02
"""Of the largest output: what rounding the input to 8 bits, as approximate kernels do, may add to the error."""
NVIDIA = Path("/dev/nvidia0")


def processors() -> dict[str, Any]:
    """The CPU's instruction set as torch uses it, omniq's native library, threads, and the CUDA devices."""
    bfloat16 = "with" if native.cpu_bfloat16() else "without"
    return {
        "cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "CPU library": native.missing() or f"loaded: {native.cpu_isa()}, {bfloat16} bfloat16 instructions",
        "CUDA library": cuda_library.missing() or "loaded",
        "threads": torch.get_num_threads(),
        "cuda devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def devices() -> tuple[torch.device, ...]:
    """The kinds of device that are here."""
    return tuple(map(torch.device, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]))


def kernel_states() -> dict[str, str]:
    """Each kernel: ready, or why it does not run a typical layer (W4A16g128, W4A8; 4096 by 4096) on a device here."""
    cases = [(LinearSpec.parse(scheme), device) for scheme in ("W4A16g128", "W4A8") for device in devices()]
    states = {}
    for name, kernel in KERNELS.items():
        reasons = {f"{spec} on {device}": kernel.refuse(spec, TYPICAL, device) for spec, device in cases}
        ready = [case for case, reason in reasons.items() if reason is None]
        refused = "; ".join(f"not {case}: {reason}" for case, reason in reasons.items() if reason)
        states[name] = "; ".join(part for part in ("ready for " + ", ".join(ready) if ready else "", refused) if part)
    return states | {name: f"absent: {reason}" for name, reason in KERNELS.absent.items()}


def cpu_library(missing: str | None, isa: str | None, capability: str) -> Finding:
    """missing, isa: of the library that is loaded. capability: of the processor, as torch names it."""
    if missing:
        return problem("CPU library", f"not in use, so that models run many times slower: {missing}", "as it says")
    if isa == "portable" and capability != "DEFAULT":
        said = f"loaded with plain C++ only, while the processor has {capability}"
        return note("CPU library", said, "install omniq again on this machine, with a newer compiler")
    return ok("CPU library", f"loaded: {isa}")


def cuda(missing: str | None, seen: int, has_gpu: bool, built_for: str | None) -> Finding:
    """missing: why the CUDA library is not loaded. seen: GPUs of torch. has_gpu: the system has one."""
    if not seen and has_gpu:
        build = f"built for CUDA {built_for}" if built_for else "a build for CPUs"
        said = f"this machine has an NVIDIA GPU, and torch, {build}, sees none"
        return problem("CUDA library", said, "install a build of torch for CUDA that the driver supports")
    if not seen:
        return ok("CUDA library", "not needed: there is no NVIDIA GPU")
    if missing:
        return note("CUDA library", f"not in use, so that Triton does its work: {missing}", "as it says")
    return ok("CUDA library", f"loaded, for {seen} GPU{'s' if seen > 1 else ''}")


def stale(library: Path | None, sources: Sequence[Path]) -> Finding | None:
    """A note where a compiled library is older than the sources beside it, as after a change in a working tree."""
    newest = max((path.stat().st_mtime for path in sources), default=0.0)
    if library is None or library.stat().st_mtime >= newest:
        return None
    return note(library.name, f"{library} is older than its sources", "install omniq again: pip install --editable .")


def small(spec: QuantSpec, device: torch.device) -> QTensor:
    """A random weight (N, K) of a grid."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, spec.qmax + 1, SMALL, generator=draw, dtype=torch.uint8)
    groups = (SMALL[0], spec.groups(SMALL[1]))
    scales = (0.5 + torch.rand(groups, generator=draw)) / (spec.mid * SMALL[1] ** 0.5)
    zeros = torch.full(groups, spec.mid, dtype=torch.uint8)
    return QTensor(codes.to(device), scales.to(device), zeros.to(device), spec)


def excess(kernel: Kernel, spec: LinearSpec, device: torch.device) -> float:
    """The largest error of a kernel over what it may be; at most 1 where it computes what it should.

    Allowed is twice the error of plain torch in the same dtype, both against float64, or one step of the dtype.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    q = small(spec.weight, device)
    packed, weight = kernel.prepack(q, spec), q.dequantize(torch.float64)
    worst = 0.0
    for rows in ROWS:
        x = torch.randn(rows, SMALL[1], generator=torch.Generator().manual_seed(rows)).to(device, dtype)
        exact = decoded(x, spec.input, torch.float64) @ weight.T
        plain = fake_quantize_tokens(x, spec.input) @ weight.to(dtype).T
        step = torch.finfo(dtype).eps + (APPROXIMATE if kernel.approximate else 0.0)
        allowed = max(2 * error(plain, exact), step * float(exact.abs().max()))
        worst = max(worst, error(kernel.apply(x, packed, spec), exact) / allowed)
    return worst


def error(y: Tensor, exact: Tensor) -> float:
    """The largest difference; infinite where y is no number."""
    return float((y.double() - exact).abs().max().nan_to_num(nan=float("inf")))


def tried(name: str, kernel: Kernel, places: Sequence[torch.device]) -> Finding:
    """Runs a kernel on a small matrix for every scheme and device that it takes."""
    title, agreed, reasons = f"kernel {name}", [], []
    for place in places:
        for scheme in SCHEMES:
            spec = LinearSpec.parse(scheme)
            if reason := kernel.refuse(spec, SMALL, place):
                reasons.append(reason)
                continue
            try:
                found = excess(kernel, spec, place)
            except (OmniqError, RuntimeError, OSError) as failure:
                return problem(title, f"{scheme} on {place} fails: {failure}", "install omniq again on this machine")
            if not found <= 1:
                said = f"{scheme} on {place} is off: {found:.3g} times the error that the reference rule allows"
                return problem(title, said, "install omniq again on this machine, and report it if it stays")
            agreed.append(f"{scheme} on {place}")
    if not agreed:
        return ok(title, f"not for this machine: {'; '.join(dict.fromkeys(reasons))}")
    return ok(title, f"agrees with the reference: {', '.join(agreed)}")


def absent(name: str, reason: str, has_gpu: bool) -> Finding:
    """A kernel whose package is not installed."""
    if has_gpu:
        return note(f"kernel {name}", reason, "pip install 'omniq[triton]'")
    return ok(f"kernel {name}", f"not for this machine: {reason}")


def kernels() -> Iterator[Finding]:
    """Every check of what computes."""
    yield cpu_library(native.missing(), native.cpu_isa(), torch.backends.cpu.get_cpu_capability())
    yield cuda(cuda_library.missing(), torch.cuda.device_count(), NVIDIA.exists(), torch.version.cuda)
    for name, folder in ((native.LIBRARY, "cpu"), (cuda_library.LIBRARY, "cuda")):
        sources = [path for path in (Path(__file__).parents[2] / "kernels/csrc" / folder).rglob("*") if path.is_file()]
        if found := stale(library_path(name), sources):
            yield found
    for name, kernel in KERNELS.items():
        yield tried(name, kernel, devices())
    for name, reason in KERNELS.absent.items():
        yield absent(name, reason, torch.cuda.is_available())
