"""Triton kernels compiled for GPUs that are not here: every tile compiles, fits and spends few instructions.

Counted are the instructions of the main loop per weight, for one thread. At 4.3 TB/s an H200 can issue 4.0 per 4-bit
weight, 3.1 per 3-bit and 2.1 per 2-bit while it reads them; what one program computes for up to 16 tokens stays below.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

triton = pytest.importorskip("triton", reason="needs triton: pip install omniq[triton]")

from triton_binaries import TYPES, Binary, binary  # noqa: E402

from omniq.kernels._triton.fields import field_count  # noqa: E402
from omniq.kernels._triton.layout import run_length  # noqa: E402
from omniq.kernels._triton.parts import summed  # noqa: E402
from omniq.kernels._triton.quantize import SMALLEST_STEP, quantize  # noqa: E402
from omniq.kernels._triton.table import AMPERE, COLUMNS, HOPPER, Tile  # noqa: E402
from omniq.kernels._triton.wna16 import expand, gemm  # noqa: E402
from omniq.kernels._triton.wnai8 import gemm_i8  # noqa: E402
from omniq.kernels.triton_wnai8 import choices  # noqa: E402
from omniq.spec import LinearSpec  # noqa: E402

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is set: nothing is compiled")

LONG = 8192
SHARED = {80: 163, 90: 227, 120: 99}
"""KB of shared memory that one program may take."""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels go to a folder of the test run."""
    before = triton.knobs.cache.dir
    triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
    yield
    triton.knobs.cache.dir = before


def unpacking(spec: LinearSpec, element: int, scale: str) -> dict:
    """What both kernels are specialised on."""
    length = run_length(spec.weight, LONG, element)
    return {"BITS": spec.weight.bits, "E": length, "GROUP": spec.weight.group_size, "SCALE": scale, "FAST": True}


def float_gemm(
    scheme: str, dtype: str, tile: Tile, capability: int, scale: str = "", out: str = ""
) -> tuple[Binary, float]:
    """(machine code, instructions per weight) of the kernel with float activations."""
    spec = LinearSpec.parse(scheme)
    constants = unpacking(spec, 16, scale or dtype) | {"DTYPE": dtype, "RAGGED": False}
    grids = "*i64" if scale == "fp32" else "*i32"
    types = {"x": TYPES[dtype], "words": "*i16", "grids": grids, "out": TYPES[out or dtype]}
    return built(gemm, types, constants, tile, capability, 16)


def integer_gemm(scheme: str, tile: Tile, capability: int) -> tuple[Binary, float]:
    """(machine code, instructions per weight) of the kernel with integer activations."""
    spec = LinearSpec.parse(scheme)
    constants = unpacking(spec, 8, "bf16")
    constants |= {"SYMMETRIC": spec.weight.symmetric, "SHIFTED": not spec.input.symmetric}
    types = {"codes": "*i8", "scales": "*fp32", "zeros": "*i32", "words": "*i8", "grids": "*i32", "sums": "*i32"}
    return built(gemm_i8, types | {"out": "*bf16"}, constants, tile, capability, 8)


def built(kernel, types: dict, constants: dict, tile: Tile, capability: int, element: int) -> tuple[Binary, float]:
    """(machine code, instructions per weight) of one tile of the table."""
    sizes = {"BN": tile.rows, "BM": tile.tokens, "STAGES": tile.stages}
    made = binary(kernel, types, constants | sizes, capability, tile.warps, tile.stages)
    weights = tile.rows * field_count(constants["BITS"], element) * constants["E"]
    return made, len(made.loop()) * 32 * tile.warps / weights


def assert_sound(made: Binary, capability: int, instruction: str) -> None:
    """No spills in the loop, shared memory in its limits, tensor cores at work, every load fetched ahead."""
    loop = Binary(tuple(enumerate(made.loop())), 0)
    assert loop.count("LDL") + loop.count("STL") == 0
    assert made.count("LDL") + made.count("STL") <= 4
    assert made.shared <= SHARED[capability] * 1024
    assert loop.count(instruction) > 0
    assert loop.count("LDG\\.") == 0
    assert loop.count("LDGSTS") > 0


# Instructions per weight, tile by tile, as Triton 3.6 compiled them: float16 or bfloat16, whichever is more.
HOPPER_COUNTS = {
    "W4A16g128": (2.03, 2.27, 3.16, 3.46),
    "W3A16g128": (2.64, 2.82, 4.11, 4.36),
    "W2A16g128": (1.83, 2.04, 3.05, 3.30),
    "W8A16g128": (4.68, 4.95, 6.03, 6.39),
    "W4A16": (1.82, 2.01, 2.50, 2.62),
    "W3A16": (2.38, 2.54, 3.49, 3.62),
    "W2A16": (1.54, 1.76, 2.42, 2.55),
    "W4A16g64": (2.26, 2.56, 3.91, 4.41),
    "W4A16g32": (2.92, 3.32, 5.64, 6.64),
    "W2A16g64": (2.07, 2.35, 3.75, 4.22),
    "W4A8g128": (1.28, 1.49, 1.93, 2.35, 4.16),
    "W4A8": (0.89, 0.95, 1.13, 1.09, 1.08),
    "W3A8g128": (1.99, 2.18, 2.58, 3.04, 4.70),
    "W2A8g128": (1.15, 1.34, 1.77, 2.19, 3.80),
    "W8A8g128": (1.22, 1.44, 1.95, 2.27, 4.20),
    "W8A8": (0.85, 0.95, 1.16, 1.04, 1.04),
    "W4A8g32": (2.81, 3.36, 4.48, 6.53, 12.06),
    "W4A8g128-asym": (1.97, 2.16, 2.62, 3.04, 4.88),
    "W4A8g128-actasym": (1.44, 1.70, 2.30, 3.06),
    "W8A8g128-asym": (3.48, 3.84, 4.51, 5.00),
    "W4A8-asym-actasym": (1.63, 1.70, 1.88, 1.84, 1.83),
    "W3A8g128-asym-actasym": (2.52, 2.79, 3.30, 4.13),
    "W8A8-asym-actasym": (2.89, 3.08, 3.41, 3.12),
}
# The same on sm_80 or sm_120, whichever is more.
OTHER_COUNTS = {
    "W4A16g128": (2.09, 2.34, 3.39, 4.67),
    "W3A16g128": (2.68, 2.90, 4.29, 5.32),
    "W2A16g128": (1.88, 2.16, 3.20, 4.48),
    "W8A16g128": (4.77, 5.03, 6.14, 7.34),
    "W4A16": (1.84, 2.06, 2.82, 3.83),
    "W3A16": (2.37, 2.55, 3.70, 4.48),
    "W2A16": (1.57, 1.80, 2.70, 3.68),
    "W4A16g64": (2.29, 2.63, 4.10, 5.62),
    "W4A16g32": (3.05, 3.55, 5.45, 7.45),
    "W2A16g64": (2.14, 2.48, 3.80, 5.32),
    "W4A8g128": (1.31, 1.48, 2.01, 3.59),
    "W4A8": (0.91, 0.96, 1.20, 1.72, 3.14),
    "W3A8g128": (2.00, 2.19, 2.69, 4.27),
    "W2A8g128": (1.15, 1.34, 1.89, 3.29),
    "W8A8g128": (1.23, 1.47, 1.89, 4.39),
    "W8A8": (0.89, 0.98, 1.19, 1.84, 3.55),
    "W4A8g32": (2.84, 3.34, 4.62, 9.97),
    "W4A8g128-asym": (1.98, 2.20, 2.65, 4.23),
    "W4A8g128-actasym": (1.45, 1.73, 2.33, 4.41),
    "W8A8g128-asym": (3.55, 3.90, 4.62, 7.52),
    "W4A8-asym-actasym": (1.63, 1.72, 1.91, 2.42, 3.80),
    "W3A8g128-asym-actasym": (2.52, 2.79, 3.33, 5.50),
    "W8A8-asym-actasym": (2.92, 3.16, 3.48, 4.69),
}
MARGIN = 1.1
TABLES = {80: AMPERE, 90: HOPPER, 120: COLUMNS[12, 0]}


def tiles(scheme: str, capability: int) -> tuple[Tile, ...]:
    """The tiles that run this scheme, from few tokens to many."""
    spec, column = LinearSpec.parse(scheme), TABLES[capability]
    return choices(column, spec) if spec.input else column.floats


def assert_within_budget(scheme: str, capability: int, index: int, dtypes: tuple[str, ...] = ("fp16", "bf16")) -> None:
    """Compiles one tile for one scheme: sound, and no more instructions than counted before, plus a tenth."""
    counts = (HOPPER_COUNTS if capability == 90 else OTHER_COUNTS)[scheme]
    tile = tiles(scheme, capability)[index]
    if LinearSpec.parse(scheme).input:
        compiled, instruction = [integer_gemm(scheme, tile, capability)], "I(G?)MMA"
    else:
        compiled, instruction = [float_gemm(scheme, dtype, tile, capability) for dtype in dtypes], "H(G?)MMA"
    for made, per_weight in compiled:
        assert_sound(made, capability, instruction)
        assert 0 < per_weight <= MARGIN * counts[index], (scheme, capability, tile, per_weight)


FEW = [
    *((scheme, 90, index) for scheme in ("W4A16g128", "W4A8g128") for index in range(len(HOPPER_COUNTS[scheme]))),
    *((scheme, 90, 1) for scheme in ("W3A16g128", "W2A16g128", "W8A16g128", "W3A8g128", "W8A8g128-asym")),
    ("W4A8", 90, 4),
    ("W4A16g128", 80, 1),
    ("W4A8g128-actasym", 80, 3),
    ("W4A16g128", 120, 1),
]


@pytest.mark.parametrize(("scheme", "capability", "index"), FEW)
def test_a_tile_compiles_fits_and_spends_few_instructions(scheme: str, capability: int, index: int) -> None:
    assert_within_budget(scheme, capability, index, ("bf16",))


@pytest.mark.slow  # about six minutes of one core
@pytest.mark.parametrize("capability", TABLES)
@pytest.mark.parametrize("scheme", HOPPER_COUNTS)
def test_every_tile_compiles_fits_and_spends_few_instructions(scheme: str, capability: int) -> None:
    for index in range(len(tiles(scheme, capability))):
        assert_within_budget(scheme, capability, index)


@pytest.mark.parametrize(("scheme", "budget"), [("W4A16g128", 4.0), ("W3A16g128", 3.1), ("W2A16g128", 2.1)])
def test_sixteen_tokens_stay_within_what_an_h200_can_issue(scheme: str, budget: float) -> None:
    _, per_weight = float_gemm(scheme, "bf16", HOPPER.floats[1], 90)
    assert per_weight <= budget


def test_float32_scales_and_float32_results_compile_as_well() -> None:
    made, _ = float_gemm("W4A16g128", "bf16", HOPPER.floats[1], 90, scale="fp32", out="fp32")
    assert_sound(made, 90, "HMMA")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_quantising_tokens_divides_exactly_and_rounds_after_every_step(dtype: str) -> None:
    constants = {"BITS": 8, "SYMMETRIC": False, "EPS": SMALLEST_STEP[dtype], "RECIPROCAL": True, "FAST": True}
    types = {"x": TYPES[dtype], "codes": "*i8", "scales": "*fp32", "zeros": "*i32"}
    made = binary(quantize, types, constants | {"BLOCK": 2048}, 90, 8, 3)
    narrowing = {"fp16": "F2F.F16|F2FP.F16", "bf16": "F2F.BF16|F2FP.BF16", "fp32": "F2FP?.(BF16|F16)"}[dtype]
    assert made.count("LDL") + made.count("STL") == 0
    assert made.count("MUFU.RCP") > 0  # the seed of the exact division
    assert (made.count(f"({narrowing})") > 0) == (dtype != "fp32")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_expanding_and_adding_parts_compile_without_spills(bits: int) -> None:
    constants = unpacking(LinearSpec.parse(f"W{bits}A16g128"), 16, "bf16") | {"DTYPE": "bf16"}
    made = binary(expand, {"words": "*i16", "grids": "*i32", "out": "*bf16"}, constants, 90, 4, 3)
    assert made.count("LDL") + made.count("STL") == 0
    parts = binary(summed, {"parts": "*fp32", "out": "*bf16"}, {"FAST": True, "BLOCK": 1024}, 90, 4, 3)
    assert parts.count("LDL") + parts.count("STL") == 0
