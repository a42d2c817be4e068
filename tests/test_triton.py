"""Triton kernels: what can be known of them on the host (layout, PTX, tiles, refusals), and Triton's interpreter.

The interpreter must be chosen before the kernels are imported, so those tests (test_triton_interpreted.py) run in a
process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="needs triton: pip install omniq[triton]")

from test_kernels import random_qtensor  # noqa: E402

from omniq.kernels._triton import fields, layout, table  # noqa: E402
from omniq.kernels.dispatch import KERNELS  # noqa: E402
from omniq.spec import LinearSpec, QuantSpec  # noqa: E402

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FLOATS, INTEGERS = "triton_wna16", "triton_wnai8"


# --- the interpreter


def test_every_property_holds_under_the_interpreter(tmp_path: Path) -> None:
    child = Path(__file__).with_name("test_triton_interpreted.py")
    command = [sys.executable, "-P", "-m", "pytest", "--import-mode=importlib", "-q", "-rs", "-p", "no:cacheprovider"]
    settings = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, str(child)], cwd=tmp_path, env=settings, capture_output=True, text=True)
    if " skipped" in done.stdout and " passed" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# --- layout


@pytest.mark.parametrize("shape", [(1, 32), (5, 33), (130, 576), (64, 1000)])
@pytest.mark.parametrize("element", [16, 8])
@pytest.mark.parametrize("bits", range(2, 9))
def test_words_hold_every_code(bits: int, element: int, shape: tuple[int, int]) -> None:
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    e = layout.run_length(QuantSpec(bits), shape[1], element)
    words = layout.packed_words(codes, bits, element, e)
    assert torch.equal(layout.unpacked_codes(words, bits, shape), codes)


@pytest.mark.parametrize(("scheme", "per_weight"), [("W4A16g128", 4.25), ("W3A16g128", 3.25), ("W2A8g128", 2.25)])
def test_a_weight_takes_its_bits_and_four_bytes_a_group(scheme: str, per_weight: float) -> None:
    spec = LinearSpec.parse(scheme)
    q = random_qtensor(spec.weight, (128, 512), torch.bfloat16)
    packed = KERNELS[INTEGERS if spec.input else FLOATS].prepack(q, spec)
    assert sum(tensor.nbytes for tensor in packed.values()) * 8 == q.codes.numel() * per_weight


@pytest.mark.parametrize("columns", [576, 640, 1536, 2048, 4096, 8192, 11008, 14336, 28672])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_columns_are_padded_by_a_sixteenth_or_less_than_one_narrowest_tile(bits: int, columns: int) -> None:
    for element, group in ((16, 64), (8, 64), (16, -1), (8, -1)):
        e = layout.run_length(QuantSpec(bits, group), columns, element)
        count = fields.field_count(bits, element)
        assert -columns % (count * e) <= max(columns / 16, count * layout.NARROWEST[element] - 1)


# --- PTX


def ptx(code: str, *inputs: Tensor) -> Tensor:
    """What the PTX leaves in $0, by the meaning of each instruction; registers are int64 holding 32 bits."""
    registers = {f"${i + 1}": value & 0xFFFFFFFF for i, value in enumerate(inputs)}

    def value(name: str) -> Tensor | int:
        return registers[name] if name in registers else int(name, 0)

    steps = {
        "mov.b32": lambda a: a,
        "shr.b32": lambda a, b: a >> b,
        "shl.b32": lambda a, b: a << b,
        "and.b32": lambda a, b: a & b,
        "or.b32": lambda a, b: a | b,
        "xor.b32": lambda a, b: a ^ b,
        "sub.s32": lambda a, b: a - b,
        "lop3.b32": lambda a, b, c, table: (a & b) | c if table == 0xEA else None,
        "fma.rn.f16x2": lambda a, b, c: halves(torch.float16, a, b, c),
        "fma.rn.bf16x2": lambda a, b, c: halves(torch.bfloat16, a, b, c),
    }
    for line in code.strip("{ }").split(";"):
        name, _, rest = line.strip().partition(" ")
        if name and not name.startswith("."):
            target, *sources = (part.strip() for part in rest.split(","))
            registers[target] = steps[name](*map(value, sources)) & 0xFFFFFFFF
    return registers["$0"]


def halves(dtype: torch.dtype, a: Tensor, b: Tensor | int, c: Tensor | int) -> Tensor:
    """a * b + c on both halves of a register, rounded once."""
    both = []
    for shift in (0, 16):
        parts = [torch.as_tensor(value) >> shift & 0xFFFF for value in (a, b, c)]
        x, y, z = (part.to(torch.int16).view(dtype).double() for part in parts)
        both.append((x * y + z).to(dtype).view(torch.int16).to(torch.int64) & 0xFFFF)
    return both[0] | both[1] << 16


def lanes(register: Tensor, dtype: torch.dtype) -> Tensor:
    """registers (...,) -> (..., 2 or 4) values of `dtype`, the lowest bits first."""
    low = torch.where(register >= 1 << 31, register - (1 << 32), register).to(torch.int32)
    return low.unsqueeze(-1).view(dtype)


def registers(elements: Tensor) -> Tensor:
    """(..., E) int16 or int8 -> (..., E / 2 or E / 4) int64 with 32 bits each."""
    return elements.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def every_code(bits: int, element: int) -> tuple[Tensor, Tensor]:
    """words of one tile (P, 64, E) and its codes (fields, 64, E), random, 0 and the largest among them."""
    e = layout.NARROWEST[element]
    count = fields.field_count(bits, element)
    codes = torch.randint(0, 2**bits, (64, count * e), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    codes[0], codes[1] = 0, 2**bits - 1
    return layout.packed_words(codes, bits, element, e)[0, 0], layout.tiled(codes, count, e)[0, 0]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_ptx_of_the_float_path_gives_code_minus_zero_exactly(bits: int, dtype: str) -> None:
    words, codes = every_code(bits, 16)
    kind = torch.float16 if dtype == "fp16" else torch.bfloat16
    for i in range(len(codes)):
        planes = [registers(words[i * fields.field_width(bits) // 16])] + ([registers(words[2])] if bits == 3 else [])
        for zero in {0, 1, 2 ** (bits - 1), 2**bits - 1}:
            if fields.halves_needed(bits, dtype):
                addend = int(torch.tensor(-float(zero), dtype=kind).view(torch.int16)) & 0xFFFF
            else:
                base, b = fields.addend_bits(i, bits, dtype)
                addend = base + (zero << b)
            out = ptx(fields.float_asm(i, bits, dtype), *planes, torch.tensor(addend * 0x10001))
            assert torch.equal(lanes(out, kind).flatten(1).double(), codes[i].double() - zero), (i, zero)


# Eight bits with a zero point are multiplied as two halves: the next test.
@pytest.mark.parametrize(("bits", "symmetric"), [(b, s) for b in range(2, 9) for s in (True, False) if b < 8 or s])
def test_the_ptx_of_the_integer_path_gives_code_minus_zero_exactly(bits: int, symmetric: bool) -> None:
    words, codes = every_code(bits, 8)
    for i in range(len(codes)):
        planes = [registers(words[i * fields.field_width(bits) // 8])] + ([registers(words[2])] if bits == 3 else [])
        for zero in {2 ** (bits - 1)} if symmetric else {0, 1, 2**bits - 1}:
            gain = 2 ** (8 - bits) if symmetric else 1
            out = ptx(fields.byte_asm(i, bits, symmetric), *planes, torch.tensor((zero * gain & 0xFF) * 0x01010101))
            assert torch.equal(lanes(out, torch.int8).flatten(1).int(), (codes[i].int() - zero) * gain), (i, zero)


def test_the_ptx_of_two_halves_gives_eight_bits_exactly() -> None:
    words, codes = every_code(8, 8)
    for zero in (0, 1, 100, 255):
        low = ptx(fields.byte_asm(0, 4, False), registers(words[0]), torch.tensor((zero & 15) * 0x01010101))
        high = ptx(fields.byte_asm(1, 4, False), registers(words[0]), torch.tensor((zero >> 4) * 0x01010101))
        whole = lanes(high, torch.int8).int() * 16 + lanes(low, torch.int8).int()
        assert torch.equal(whole.flatten(1), codes[0].int() - zero)


# --- tiles


@pytest.mark.parametrize("tokens", [1, 8, 9, 64, 65, 8192])
@pytest.mark.parametrize("tiles", [1, 3, 64, 1000])
@pytest.mark.parametrize("rows", [64, 4096, 28672])
def test_shares_cover_every_tile_of_columns(rows: int, tiles: int, tokens: int) -> None:
    for column in table.COLUMNS.values():
        for choices in (column.floats, column.groups, column.channels):
            share = table.shares(table.tile(choices, tokens), rows, tokens, tiles, 132)
            assert 1 <= share <= tiles
            assert -(-tiles // share) <= 16


def test_a_capability_between_two_listed_ones_takes_the_lower() -> None:
    assert table.column((9, 0)) is table.HOPPER
    assert table.column((10, 0)) is table.HOPPER
    assert table.column((8, 7)) is table.AMPERE
    assert table.column((12, 1)) is table.COLUMNS[12, 0]
    assert table.column((7, 5)) is table.AMPERE


def test_few_tokens_share_columns_until_the_device_is_full_and_many_do_not() -> None:
    few, many = table.HOPPER.floats[0], table.HOPPER.floats[-1]
    assert table.shares(few, 4096, 1, 16, 132) < 16
    assert table.shares(many, 8192, 8192, 32, 132) == 32


# --- refusals and bad input


@pytest.mark.parametrize(
    ("name", "scheme", "columns", "device", "sentence"),
    [
        (FLOATS, "W4A16g128", 4096, CUDA, None),
        (FLOATS, "W3A16-asym", 33, CUDA, None),
        (FLOATS, "W4A16g128", 4096, CPU, "runs on CUDA, not cpu"),
        (FLOATS, "W4A16g24", 96, CUDA, "group size that is a multiple of 16, got 24"),
        (FLOATS, "W4A8", 96, CUDA, "float activations, not 8-bit integers"),
        (INTEGERS, "W4A4g32", 96, CUDA, None),
        (INTEGERS, "W8A8-asym-actasym", 33, CUDA, None),
        (INTEGERS, "W4A8", 96, CPU, "runs on CUDA, not cpu"),
        (INTEGERS, "W4A8g16", 96, CUDA, "group size that is a multiple of 32, got 16"),
        (INTEGERS, "W4A8", 40000, CUDA, "at most 32768 columns per scale, got 40000"),
        (INTEGERS, "W4A8g128", 65536, CUDA, None),
        (INTEGERS, "W4A16", 96, CUDA, "integer activations, not floating point"),
    ],
)
def test_what_does_not_run_is_refused_with_its_reason(
    name: str, scheme: str, columns: int, device: torch.device, sentence: str | None
) -> None:
    reason = KERNELS[name].refuse(LinearSpec.parse(scheme), (64, columns), device)
    assert reason is None if sentence is None else sentence in reason


@pytest.mark.parametrize(("name", "scheme"), [(FLOATS, "W4A16g32"), (INTEGERS, "W4A8g32-actasym")])
def test_bad_input_is_an_error_before_anything_is_launched(name: str, scheme: str) -> None:
    spec, kernel = LinearSpec.parse(scheme), KERNELS[name]
    packed = kernel.prepack(random_qtensor(spec.weight, (64, 96), torch.float32), spec)
    with pytest.raises(ValueError, match=r"shape \(2, 64\); a layer with in_features=96 needs"):
        kernel.apply(torch.zeros(2, 64), packed, spec)
    with pytest.raises(ValueError, match=r"shape \(96,\)"):
        kernel.apply(torch.zeros(96), packed, spec)
    with pytest.raises(TypeError, match=r"float64; use float32, float16 or bfloat16"):
        kernel.apply(torch.zeros(2, 96, dtype=torch.float64), packed, spec)
    with pytest.raises(ValueError, match=r"words are on cpu, the input on meta"):
        kernel.apply(torch.zeros(2, 96, device="meta"), packed, spec)
    for damaged in ("words", "grids"):
        shorter = packed | {damaged: packed[damaged][:, :-1]}
        with pytest.raises(ValueError, match=rf"packed {damaged} are .* needs"):
            kernel.apply(torch.zeros(2, 96), shorter, spec)
    with pytest.raises(ValueError, match=r"packed grids are"):
        kernel.apply(torch.zeros(2, 96), packed | {"grids": packed["grids"].to(torch.int32)}, spec)
