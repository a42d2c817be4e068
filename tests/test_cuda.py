"""The CUDA library without a GPU: what it refuses, in Python and behind the C calls, and how it divides the work."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omniq.errors import UnsupportedError
from omniq.kernels import cuda_library, cuda_w4a4, cuda_wna16
from omniq.kernels.cuda_layout import packed_int4, packed_weight
from omniq.kernels.cuda_library import Call, CodesCall
from omniq.kernels.cuda_w4a4 import CudaW4A4
from omniq.kernels.cuda_wna16 import CudaWna16
from omniq.kernels.shared_library import library_path
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
BAD_ARGUMENT, NO_DRIVER = -1, 35


def qtensor(scheme: str, n: int = 40, k: int = 128, scales: torch.dtype = torch.float16) -> tuple[QTensor, LinearSpec]:
    """Random codes."""
    spec = LinearSpec.parse(scheme)
    codes = torch.randint(0, spec.weight.qmax + 1, (n, k), dtype=torch.uint8)
    grid = torch.ones(n, spec.weight.groups(k))
    return QTensor(codes, grid.to(scales), (grid * spec.weight.mid).to(torch.uint8), spec.weight), spec


@pytest.fixture
def library() -> ctypes.CDLL:
    """The compiled library; skips with its own reason where there is none."""
    found, reason = cuda_library.cuda_library()
    if found is None:
        pytest.skip(reason)
    return found


# --- finding the library


def test_an_absent_library_is_explained() -> None:
    found, reason = cuda_library.open_library(library_path(cuda_library.LIBRARY, ()))
    assert found is None
    assert "not built" in reason
    assert "nvcc" in reason


def test_a_library_that_does_not_load_is_explained(tmp_path: Path) -> None:
    (tmp_path / cuda_library.LIBRARY).write_bytes(b"not a library")
    found, reason = cuda_library.open_library(library_path(cuda_library.LIBRARY, (str(tmp_path),)))
    assert found is None
    assert str(tmp_path) in reason


def test_without_the_library_a_call_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_library, "cuda_library", lambda: (None, "it was not built"))
    with pytest.raises(RuntimeError, match="it was not built"):
        cuda_library.run("omniq_cuda_decode", Call())


def test_the_structures_have_the_size_that_the_library_expects(library: ctypes.CDLL) -> None:
    assert library.omniq_cuda_call_size() == ctypes.sizeof(Call)
    assert library.omniq_cuda_codes_call_size() == ctypes.sizeof(CodesCall)


# --- what a layer is refused for


@pytest.mark.parametrize(
    ("kernel", "scheme", "device", "word"),
    [
        (CudaWna16(), "W4A16g32", CPU, "NVIDIA GPUs only"),
        (CudaWna16(), "W4A16g16", GPU, "multiple of 32"),
        (CudaWna16(), "W4A8", GPU, "keeps activations in floating point"),
        (CudaW4A4(), "W4A4", CPU, "NVIDIA GPUs only"),
        (CudaW4A4(), "W4A16", GPU, "at most 4 bits"),
        (CudaW4A4(), "W4A8", GPU, "at most 4 bits"),
        (CudaW4A4(), "W8A4", GPU, "at most 4 bits"),
        (CudaW4A4(), "W4A4-asym", GPU, "symmetric"),
        (CudaW4A4(), "W4A4g32", GPU, "multiple of 64"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_with_a_sentence(
    kernel: CudaWna16 | CudaW4A4, scheme: str, device: torch.device, word: str
) -> None:
    assert word in kernel.refuse(LinearSpec.parse(scheme), (64, 128), device)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """Makes torch report one GPU of a given compute capability."""

    def report(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        cuda_library._refusal.cache_clear()

    yield report
    cuda_library._refusal.cache_clear()


def test_a_gpu_that_is_too_old_is_refused(library: ctypes.CDLL, one_gpu: Callable[[tuple[int, int]], None]) -> None:
    one_gpu((7, 5))
    assert "compute capability 8.0 or later; this GPU has 7.5" in cuda_library.device_refusal(GPU)


def test_a_driver_that_is_too_old_is_refused(library: ctypes.CDLL, one_gpu: Callable[[tuple[int, int]], None]) -> None:
    if library.omniq_cuda_ready(0) == 0:
        pytest.skip("this machine has a GPU that the library runs on")
    one_gpu((9, 0))
    assert "update the driver" in cuda_library.device_refusal(GPU)


def test_int4_tensor_cores_end_with_compute_capability_8_9(
    one_gpu: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_w4a4, "device_refusal", lambda device: None)
    spec = LinearSpec.parse("W4A4g64")
    one_gpu((8, 9))
    assert CudaW4A4().refuse(spec, (64, 128), GPU) is None
    one_gpu((9, 0))
    assert "9.0 has no int4 tensor cores" in CudaW4A4().refuse(spec, (64, 128), GPU)


@pytest.mark.parametrize("kernel", [CudaWna16(), CudaW4A4()])
def test_scales_of_another_type_are_refused(kernel: CudaWna16 | CudaW4A4) -> None:
    q, spec = qtensor("W4A16", scales=torch.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        kernel.prepack(q, spec)


@pytest.mark.parametrize("kernel", [CudaWna16(), CudaW4A4()])
@pytest.mark.parametrize("x", [torch.zeros(2, 128), torch.zeros(2, 128, dtype=torch.int8)])
def test_an_input_that_is_not_on_a_gpu_is_refused(kernel: CudaWna16 | CudaW4A4, x: torch.Tensor) -> None:
    q, spec = qtensor("W4A16")
    with pytest.raises(RuntimeError, match="on a GPU"):
        kernel.apply(x, kernel.prepack(q, spec), spec)


DAMAGE = {
    "codes": lambda t: t[:, :-1],
    "scales": lambda t: t.double(),
    "zeros": lambda t: t.to(torch.int8),
    "high": lambda t: t.transpose(0, 1),
}


@pytest.mark.parametrize("leaf", DAMAGE)
def test_a_packed_tensor_that_was_changed_is_refused(leaf: str) -> None:
    q, spec = qtensor("W3A16g32-asym", n=72)
    packed = packed_weight(q)
    cuda_wna16.check_packed(packed, spec.weight, *q.shape, CPU)
    packed[leaf] = DAMAGE[leaf](packed[leaf])
    with pytest.raises(RuntimeError, match=f"packed {leaf} .* load the checkpoint again"):
        cuda_wna16.check_packed(packed, spec.weight, *q.shape, CPU)


@pytest.mark.parametrize("leaf", ["codes", "scales", "row_sums"])
def test_a_packed_int4_tensor_that_was_changed_is_refused(leaf: str) -> None:
    q, _ = qtensor("W4A4g64")
    packed = packed_int4(q)
    cuda_w4a4.check_codes(packed, *q.shape, 2, CPU)
    packed[leaf] = packed[leaf][..., :-1]
    with pytest.raises(RuntimeError, match=f"packed {leaf} .* load the checkpoint again"):
        cuda_w4a4.check_codes(packed, *q.shape, 2, CPU)


# --- behind the C calls

BUFFER = ctypes.create_string_buffer(256)
ADDRESS = -(-ctypes.addressof(BUFFER) // 16) * 16


def good_call(rows: int = 4) -> Call:
    """Every check passes; nothing of it is read before a kernel starts."""
    call = Call()
    weight = call.weight
    weight.codes = weight.scales = call.x = call.y = ADDRESS
    weight.outputs, weight.columns, weight.group, weight.bits, weight.mid = 64, 128, 32, 4, 8
    call.rows, call.stride, call.splits, call.multiprocessors, call.x_type = rows, 128, 1, 100, 2
    return call


def good_codes_call() -> CodesCall:
    """As good_call."""
    call = CodesCall()
    weight = call.weight
    weight.codes = weight.scales = call.x = call.y = call.x_scales = ADDRESS
    weight.outputs, weight.columns, weight.group, weight.bits, weight.mid = 64, 128, 64, 4, 8
    call.rows = 4
    return call


BAD = {
    "codes or scales are missing": {"weight.codes": None},
    "not aligned to 16 bytes": {"weight.codes": ADDRESS + 4},
    "2, 3, 4 or 8 bits": {"weight.bits": 5},
    "3-bit weights": {"weight.bits": 3},
    "shape is empty": {"weight.outputs": 0},
    "or too large": {"weight.columns": 32 << 16},
    "multiple of the kernel's step": {"weight.group": 48},
    "scales' type": {"weight.scale_type": 3},
    "not a byte": {"weight.mid": 256},
    "output is missing": {"y": None},
    "multiprocessors": {"multiprocessors": 0},
    "neither float16": {"x_type": 0},
    "activations are not aligned": {"stride": 132},
    "rows of activations overlap": {"stride": 64},
    "no tokens": {"rows": 0},
    "at most 8 tokens": {"rows": 9},
}


@pytest.mark.parametrize("word", BAD)
def test_a_bad_argument_returns_a_code_before_anything_starts(library: ctypes.CDLL, word: str) -> None:
    call = good_call()
    for path, value in BAD[word].items():
        owner, _, name = path.rpartition(".")
        setattr(call.weight if owner else call, name, value)
    assert library.omniq_cuda_decode(call) == BAD_ARGUMENT
    assert word in library.omniq_cuda_error().decode()


@pytest.mark.parametrize(
    ("values", "word"),
    [({"splits": 0}, "parts of K"), ({"splits": 2}, "parts of K"), ({"rows": 1 << 30}, "too many tokens")],
)
def test_the_matrix_kernel_needs_memory_for_its_parts(library: ctypes.CDLL, values: dict[str, int], word: str) -> None:
    call = good_call()
    for name, value in values.items():
        setattr(call, name, value)
    assert library.omniq_cuda_gemm(call) == BAD_ARGUMENT
    assert word in library.omniq_cuda_error().decode()


def test_the_int4_kernel_needs_row_sums_with_zero_points(library: ctypes.CDLL) -> None:
    call = good_codes_call()
    call.x_shifts = ADDRESS
    assert library.omniq_cuda_w4a4(call) == BAD_ARGUMENT
    assert b"sums of the weight's rows" in library.omniq_cuda_error()


CALLS = {
    "omniq_cuda_decode": good_call,
    "omniq_cuda_gemm": good_call,
    "omniq_cuda_dequantize": good_call,
    "omniq_cuda_w4a4": good_codes_call,
}


@pytest.mark.parametrize("name", CALLS)
def test_without_a_driver_every_kernel_returns_cudas_own_code(library: ctypes.CDLL, name: str) -> None:
    if library.omniq_cuda_ready(0) != NO_DRIVER:
        pytest.skip("this machine has a driver")
    assert getattr(library, name)(CALLS[name]()) == NO_DRIVER
    assert b"cudaErrorInsufficientDriver" in library.omniq_cuda_error()


# --- how work is divided


@pytest.mark.parametrize("group", [0, 32, 64, 96, 128, 160, 544, 11008, 32 * 65535])
def test_the_group_of_a_step_is_the_quotient(library: ctypes.CDLL, group: int) -> None:
    for step in (*range(2000), *range(2000, 65536, 37), 65535):
        assert library.omniq_cuda_group(group, step) == (32 * step // group if group else 0)


@pytest.mark.parametrize(("n", "k"), [(1, 32), (576, 576), (4096, 4096), (28672, 8192), (128256, 4096), (1024, 4096)])
def test_blocks_are_of_sizes_that_the_kernels_are_built_for(library: ctypes.CDLL, n: int, k: int) -> None:
    for rows in (1, 8, 9, 16, 17, 64, 500):
        call = good_call(rows)
        call.weight.outputs, call.weight.columns, call.weight.group, call.multiprocessors = n, k, 128, 132
        assert library.omniq_cuda_decode_warps(call) in (4, 8, 16)
        splits = library.omniq_cuda_splits(call)
        assert splits == 1 or 1 < splits <= min(16, k // 512)


def test_few_rows_get_more_warps_each_and_more_parts(library: ctypes.CDLL) -> None:
    def divided(n: int) -> tuple[int, int]:
        call = good_call(16)
        call.weight.outputs, call.weight.columns, call.multiprocessors = n, 8192, 132
        return library.omniq_cuda_decode_warps(call), library.omniq_cuda_splits(call)

    assert divided(1024) == (16, 16)
    assert divided(8192)[0] == 8
    assert divided(65536) == (4, 1)
