"""The CUDA kernels themselves, run on the CPU: compiled by g++ with the stand-ins of tests/cuda_emulator.

The same sources, the same Python around them. What this cannot show is speed, and races between threads that wait
where they should but on the wrong thing; benchmarks/gpu_check.py looks for those on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from omniq.grid import fake_quantize_tokens
from omniq.kernels import cuda_library, cuda_w4a4, cuda_wna16
from omniq.kernels.cuda_layout import packed_int4, packed_weight
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, QuantSpec

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "kernels" / "csrc" / "cuda" / "library"
UNITS = ("emulator.cpp", "api.cu", "wna16_decode.cu", "wna16_dequantize.cu", "wna16_gemm.cu", "w4a4_gemm.cu")
MULTIPROCESSORS = 3
FLOATS, CODES = 0, 1
"""Streams, by which the emulator tells which structure a kernel takes."""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with emulated threads."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("emulator")
    for source in (*SOURCES.glob("*.*"), *(TESTS / "cuda_emulator").iterdir()):
        shutil.copy(source, folder)  # the stand-ins last: theirs is the ptx.cuh that counts
    library = folder / cuda_library.LIBRARY
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-I.", "-o", str(library)]
    done = subprocess.run(["g++", *flags, "-x", "c++", *UNITS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture
def on_cpu(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends calls to the emulator, which reads the tensors where they are."""
    opened = cuda_library.open_library(emulator)
    assert opened[1] is None
    for module in (cuda_library, cuda_wna16):
        monkeypatch.setattr(module, "cuda_library", lambda: opened)
    monkeypatch.setattr(cuda_wna16, "place", lambda device: (0, FLOATS, MULTIPROCESSORS))
    monkeypatch.setattr(cuda_w4a4, "place", lambda device: (0, CODES, MULTIPROCESSORS))
    poisoned = torch.Tensor.new_empty

    def new_empty(self: torch.Tensor, *size: int, **options: object) -> torch.Tensor:
        return poisoned(self, *size, **options).fill_(float("nan"))

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


def random_qtensor(spec: QuantSpec, shape: tuple[int, int], scales: torch.dtype) -> QTensor:
    """Codes, zero points and scales over their whole ranges."""
    draw = torch.Generator().manual_seed(sum(shape))
    grid = (shape[0], spec.groups(shape[1]))
    codes = torch.randint(0, spec.qmax + 1, shape, generator=draw, dtype=torch.uint8)
    zeros = torch.randint(0, spec.qmax + 1, grid, generator=draw, dtype=torch.uint8)
    steps = (0.5 + torch.rand(grid, generator=draw)) / (spec.mid * shape[1] ** 0.5)
    return QTensor(codes, steps.to(scales), zeros.fill_(spec.mid) if spec.symmetric else zeros, spec)


def random_tokens(m: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(m)).to(dtype)


def assert_close(y: torch.Tensor, x: torch.Tensor, q: QTensor) -> None:
    """At most twice the error of plain torch in the same dtype, both against float64."""
    exact = x.double() @ q.dequantize(torch.float64).T
    allowed = 2 * (x @ q.dequantize().to(x.dtype).T - exact).abs().max()
    assert (y.dtype, y.shape) == (x.dtype, exact.shape)
    assert (y.double() - exact).abs().max() <= allowed


SCHEMES = ["W4A16g128", "W4A16g32-asym", "W3A16-asym", "W3A16g64", "W2A16g96-asym", "W2A16", "W8A16g256-asym", "W8A16"]


@pytest.mark.parametrize("scheme", [*SCHEMES, "W5A16g32"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_few_tokens_hold_to_the_error_ratio(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme).weight
    q = random_qtensor(spec, (40, 768), torch.float16)
    packed = packed_weight(q)
    for m in (1, 2, 8):
        x = random_tokens(m, 768, dtype)
        assert_close(cuda_wna16.multiplied(x, packed, spec, most=64), x, q)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_more_tokens_hold_to_the_error_ratio(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme).weight
    q = random_qtensor(spec, (136, 1536), torch.bfloat16)
    packed = packed_weight(q)
    for m in (9, 17, 70):
        x = random_tokens(m, 1536, dtype)
        assert_close(cuda_wna16.multiplied(x, packed, spec, most=128), x, q)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_an_expanded_weight_is_rounded_once(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme).weight
    q = random_qtensor(spec, (40, 768), torch.float32)
    unit = torch.eye(768, dtype=dtype)
    assert torch.equal(cuda_wna16.multiplied(unit, packed_weight(q), spec, most=0), q.dequantize(dtype).T)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (33, 64), (31, 200), (70, 1000)], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_ragged_shapes_hold_to_the_error_ratio(bits: int, shape: tuple[int, int]) -> None:
    spec = QuantSpec(bits, symmetric=False)
    q = random_qtensor(spec, shape, torch.float32)
    packed = packed_weight(q)
    for m, most in ((1, 64), (3, 64), (10, 64), (3, 0)):
        x = random_tokens(m, shape[1], torch.float16)
        assert_close(cuda_wna16.multiplied(x, packed, spec, most), x, q)


@pytest.mark.usefixtures("on_cpu")
def test_a_token_gets_the_same_bits_whatever_its_neighbours_are() -> None:
    spec = QuantSpec(4, 128)
    packed = packed_weight(random_qtensor(spec, (40, 512), torch.float16))
    x = random_tokens(8, 512, torch.float16)
    together = cuda_wna16.multiplied(x, packed, spec, most=64)
    assert all(torch.equal(cuda_wna16.multiplied(x[i : i + 1], packed, spec, 64)[0], together[i]) for i in range(8))


@pytest.mark.parametrize("m", [3, 20])
@pytest.mark.usefixtures("on_cpu")
def test_nan_and_infinity_stay_in_their_token(m: int) -> None:
    spec = QuantSpec(4, 32)
    packed = packed_weight(random_qtensor(spec, (40, 256), torch.float16))
    x = random_tokens(m, 256, torch.float16)
    clean = cuda_wna16.multiplied(x, packed, spec, most=64)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    spoiled = cuda_wna16.multiplied(x, packed, spec, most=64)
    assert spoiled[1].isnan().all()
    assert not spoiled[2].isfinite().any()
    kept = [i for i in range(m) if i not in (1, 2)]
    assert torch.equal(spoiled[kept], clean[kept])


@pytest.mark.parametrize("scheme", ["W4A4", "W4A4g64", "W3A4g192-actasym", "W2A3", "W4A4-actasym"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_int4_products_hold_to_the_error_ratio(scheme: str, dtype: torch.dtype) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (136, 576), torch.float16)
    packed = packed_int4(q)
    for m in (1, 9, 67):
        x = random_tokens(m, 576, dtype)
        y, rounded = cuda_w4a4.multiplied(x, packed, spec), fake_quantize_tokens(x, spec.input)
        assert_close(y, rounded, q)


@pytest.mark.parametrize("shape", [(1, 1), (33, 70), (129, 257)], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_int4_products_of_ragged_shapes_are_exact_integers(shape: tuple[int, int]) -> None:
    spec = LinearSpec.parse("W4A4")
    q = random_qtensor(spec.weight, shape, torch.float32)
    q = QTensor(q.codes, torch.ones_like(q.scales), q.zeros, q.spec)
    # The largest of 7.5 makes the scale of a token 1.
    x = torch.randint(-7, 8, (5, shape[1]), generator=torch.Generator().manual_seed(0)).float()
    x[:, 0] = 7.5
    expected = fake_quantize_tokens(x, spec.input) @ q.dequantize().T
    assert torch.equal(cuda_w4a4.multiplied(x, packed_int4(q), spec), expected)
