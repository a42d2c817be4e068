"""The installed CUDA library, disassembled: registers, shared memory, tensor cores, instructions per weight."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniq.kernels import cuda_library
from omniq.kernels.shared_library import library_path

SHARED_LIMIT = 48 * 1024 + 1024
"""What a block gets on every device without being asked for, and the kilobyte that the newest keep for themselves."""
REGISTERS = {"decode": 128, "dequantize": 64}
"""So that 16 warps of decoding stay on a multiprocessor."""
BUDGET = {2: 2.1, 3: 3.1, 4: 4.0, 8: 8.0}
"""Instructions per weight that an H200 can issue while it reads weights of this width at 4.3 TB/s."""
FINE_BUDGET = {2: 3.5, 3: 4.5, 4: 4.0, 8: 8.0}
"""The same with a scale for every 32 columns; 2 and 3 bits then miss the bandwidth by as much as they exceed BUDGET."""


def disassembler() -> str:
    """cuobjdump: of the toolkit, or the one that Triton brings along."""
    places = [shutil.which("cuobjdump")]
    if compiler := shutil.which("nvcc"):
        places.append(str(Path(compiler).resolve().parent / "cuobjdump"))
    if spec := importlib.util.find_spec("triton"):
        places.append(str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"))
    found = next((place for place in places if place and Path(place).is_file()), None)
    if not found:
        pytest.skip("needs cuobjdump, of the CUDA toolkit or of Triton")
    return found


def output(*arguments: str, folder: Path | None = None) -> str:
    """What cuobjdump prints."""
    done = subprocess.run([disassembler(), *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library() -> Path:
    """The installed library; skips with its own reason where there is none."""
    if reason := cuda_library.missing():
        pytest.skip(reason)
    return library_path(cuda_library.LIBRARY)


@pytest.fixture(scope="module")
def binaries(library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The library's device binaries as files NUMBER.sm_XY.cubin."""
    folder = tmp_path_factory.mktemp("binaries")
    output("-xelf", "all", str(library), folder=folder)
    return sorted(folder.iterdir())


def test_there_is_code_for_every_generation(library: Path) -> None:
    listed = output("-lelf", str(library)) + output("-lptx", str(library))
    assert {"sm_80.cubin", "sm_90.cubin", "sm_120.cubin", "sm_90.ptx"} <= set(
        re.findall(r"sm_\w+\.(?:cubin|ptx)", listed)
    )


def test_every_kernel_stays_in_registers_and_in_the_shared_memory_that_all_devices_have(library: Path) -> None:
    usage = re.findall(
        r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", output("-res-usage", str(library))
    )
    assert len(usage) > 100
    for name, registers, stack, shared, local in usage:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(shared) <= SHARED_LIMIT, name
        for word, limit in REGISTERS.items():
            assert f"{word}I" not in name or int(registers) <= limit, name


def functions(binary: Path) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(mangled name, (address, instruction) in order) of every kernel of a binary."""
    for part in output("-sass", str(binary)).split("Function : ")[1:]:
        lines = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", part, re.M)
        yield part.split()[0], [(int(address, 16), text) for address, text in lines]


def main_loop(code: list[tuple[int, str]], instruction: str) -> list[str]:
    """The longest loop without another one of `instruction` around it."""
    loops = []
    for address, text in code:
        target = re.search(r"BRA\S* .*?(0x[0-9a-f]+)", text)
        if target and int(target.group(1), 16) < address:
            body = [t for a, t in code if int(target.group(1), 16) <= a <= address]
            if any(instruction in t for t in body):
                loops.append(body)
    return max(loops, key=len)


def with_kernel(binaries: list[Path], word: bytes, architecture: str) -> Path:
    """The binary of one architecture that holds a kernel of this name."""
    (found,) = [path for path in binaries if architecture in path.name and word in path.read_bytes()]
    return found


def test_decoding_reads_128_bits_at_a_time_within_the_instruction_budget(binaries: list[Path]) -> None:
    seen = 0
    for name, code in functions(with_kernel(binaries, b"wna16_decode", "sm_90")):
        bits, _, fine = (int(value) for value in re.search(r"decodeILi(\d)ELb(\d)ELb(\d)E", name).groups())
        loop = main_loop(code, "HMMA")
        chunks, steps = 2, 2 if fine or bits == 8 else 4
        weights = chunks * steps * 32
        loads = sum(".128" in text and "LDG" in text for text in loop)
        assert loads >= weights * bits // 128, name
        assert len(loop) / weights <= (FINE_BUDGET if fine else BUDGET)[bits], (name, len(loop) / weights)
        assert not any("LDL" in text or "STL" in text for _, text in code), name
        seen += 1
    assert seen == 16


def test_int4_products_are_int4_instructions_where_the_hardware_has_them(binaries: list[Path]) -> None:
    ((_, code),) = functions(with_kernel(binaries, b"w4a4_gemm", "sm_80"))
    assert sum("IMMA.16864.S4.S4" in text for _, text in code) == 16
    assert not [path for path in binaries if "sm_90" in path.name and b"w4a4_gemm" in path.read_bytes()]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_many_tokens_are_multiplied_on_tensor_cores(binaries: list[Path], architecture: str) -> None:
    names = [
        name for name, code in functions(with_kernel(binaries, b"wna16_gemm", architecture))
        if "gemmILi" in name and any("HMMA" in text for _, text in code)
    ]  # fmt: skip
    assert len(names) == 24
