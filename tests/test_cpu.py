"""The CPU kernels: the same bits from every instruction set, number of rows and number of threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cpu_subjects import DTYPES, ISAS, bits_of, needs_library, product, random_rows, random_weight
from hypothesis import given, settings
from hypothesis import strategies as st

from omniq.kernels.cpu_layout import packed_weight
from omniq.kernels.native import cpu_isa, cpu_library, torch_threads
from omniq.spec import ActSpec, LinearSpec, QuantSpec

pytestmark = needs_library
ROWS = (1, 2, 3, 5, 17, 200)
SHAPES = {2: (70, 96), 3: (33, 160), 4: (129, 288), 5: (1, 32), 6: (16, 352), 7: (65, 64), 8: (50, 224)}
ACTS = [None, ActSpec(4), ActSpec(8), ActSpec(8, symmetric=False)]


@pytest.fixture
def threads() -> Iterator[Callable[[int, bool], None]]:
    """Sets the number of threads, and whether they are torch's or the library's own, for one test."""
    before = torch.get_num_threads()

    def use(count: int, own: bool) -> None:
        torch.set_num_threads(count)
        cpu_library()[0].omniq_cpu_borrow_threads(None if own else torch_threads())

    yield use
    use(before, False)


# --- instruction sets


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("size", [-1, 32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_instruction_set_gives_the_same_bits(bits: int, symmetric: bool, size: int, isa: str, use_isa) -> None:
    spec, shape = LinearSpec(QuantSpec(bits, size, symmetric)), SHAPES[bits]
    packed = [packed_weight(random_weight(spec.weight, shape, dtype)) for dtype in DTYPES]
    cases = [
        (random_rows(m, shape[1], dtype), weight) for m in ROWS for dtype, weight in zip(DTYPES, packed, strict=True)
    ]
    use_isa("portable")
    expected = [product(x, weight, spec) for x, weight in cases]
    use_isa(isa)
    for (x, weight), y in zip(cases, expected, strict=True):
        assert torch.equal(bits_of(product(x, weight, spec)), bits_of(y)), (x.dtype, x.shape)


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("acts", ACTS, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_instruction_set_rounds_activations_to_the_same_bits(
    bits: int, acts: ActSpec | None, isa: str, use_isa
) -> None:
    # Without a grid of their own activations go through cpu_int8's.
    spec = LinearSpec(QuantSpec(bits, 20, symmetric=False), acts)
    packed, kernel = packed_weight(random_weight(spec.weight, (70, 160))), "cpu" if acts else "cpu_int8"
    inputs = [random_rows(m, 160, dtype) for m in ROWS[:5] for dtype in DTYPES]
    use_isa("portable")
    expected = [product(x, packed, spec, kernel) for x in inputs]
    use_isa(isa)
    for x, y in zip(inputs, expected, strict=True):
        assert torch.equal(bits_of(product(x, packed, spec, kernel)), bits_of(y)), (x.dtype, x.shape)


@pytest.mark.parametrize("isa", ISAS[1:])
def test_every_instruction_set_converts_every_half_alike(isa: str, use_isa) -> None:
    # One output per value: x passes through float32 and back, subnormal halves included.
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    spec = LinearSpec(QuantSpec(8))
    q = random_weight(spec.weight, (1, 16))
    q.codes.fill_(128)
    q.codes[0, 0] = 129
    q.scales.fill_(1)
    packed = packed_weight(q)
    for dtype in DTYPES[1:]:
        x = torch.zeros(2**16, 16, dtype=dtype)
        x[:, 0] = every.view(dtype)
        x = x[x[:, 0].isfinite()]
        use_isa("portable")
        expected = product(x, packed, spec)
        use_isa(isa)
        assert torch.equal(bits_of(product(x, packed, spec)), bits_of(expected))
        size = x[:, 0].abs().float()
        usual = (size >= 2.0**-100) & (size < 2.0**100)
        assert torch.equal(expected[usual], x[usual][:, :1]), "a value times one is not the value"


def test_an_instruction_set_can_be_chosen_by_name_and_unknown_names_are_refused(use_isa) -> None:
    library, _ = cpu_library()
    use_isa("portable")
    assert cpu_isa() == "portable"
    for name in (b"", b"avx", b"AVX2", b"avx512vnni ", b"\xff"):
        assert library.omniq_cpu_use_isa(name) == 1
        assert cpu_isa() == "portable"


# --- rows and threads


@pytest.mark.parametrize("kernel", ["cpu", "cpu_int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ["W2A16", "W3A16g32-asym", "W4A16g32", "W8A16g20"])
def test_a_row_does_not_depend_on_the_rows_beside_it(scheme: str, dtype: torch.dtype, kernel: str) -> None:
    spec = LinearSpec.parse(scheme)
    packed, x = packed_weight(random_weight(spec.weight, (130, 160), dtype)), random_rows(200, 160, dtype)
    whole = product(x, packed, spec, kernel)
    for m in ROWS:
        assert torch.equal(product(x[:m], packed, spec, kernel), whole[:m])
    for i in (0, 1, 47, 48, 95, 199):
        assert torch.equal(product(x[i : i + 1], packed, spec, kernel), whole[i : i + 1])


@pytest.mark.parametrize("own", [True, False], ids=["own threads", "torch's threads"])
@pytest.mark.parametrize("scheme", ["W4A16g32", "W3A16-asym", "W4A8g32"])
def test_the_number_and_the_owner_of_threads_change_no_bit(scheme: str, own: bool, threads) -> None:
    spec = LinearSpec.parse(scheme)
    packed = packed_weight(random_weight(spec.weight, (700, 352 if "g" not in scheme else 384)))
    threads(1, own)
    for m in ROWS:
        x = random_rows(m, int(packed["sizes"][1]))
        threads(1, own)
        one = product(x, packed, spec)
        for count in (2, 3, 7):
            threads(count, own)
            assert all(torch.equal(product(x, packed, spec), one) for _ in range(3)), (m, count)


@pytest.mark.parametrize("own", [True, False], ids=["own threads", "torch's threads"])
def test_several_python_threads_may_call_at_once(own: bool, threads) -> None:
    threads(2, own)
    spec = LinearSpec.parse("W4A16g32")
    packed = packed_weight(random_weight(spec.weight, (520, 256)))
    inputs = [random_rows(m, 256, seed=m) for m in (1, 2, 9, 40)]
    expected = [product(x, packed, spec) for x in inputs]

    def repeated(i: int) -> bool:
        return all(torch.equal(product(inputs[i], packed, spec), expected[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(repeated, range(4)))


FORK = """
import os, sys, torch
from cpu_subjects import product, random_rows, random_weight
from omniq.kernels.cpu_layout import packed_weight
from omniq.kernels.native import cpu_library
from omniq.spec import LinearSpec

cpu_library()[0].omniq_cpu_borrow_threads(None)
spec = LinearSpec.parse("W4A16g32")
packed, x = packed_weight(random_weight(spec.weight, (520, 256))), random_rows(5, 256)
torch.set_num_threads(2)
before = product(x, packed, spec)
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = all(torch.equal(product(x, packed, spec), before) for _ in range(10))
        os._exit(0 if same else 3)
    assert all(torch.equal(product(x, packed, spec), before) for _ in range(10))
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def test_a_forked_child_computes_with_threads_of_its_own(request: pytest.FixtureRequest) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=request.path.parent, env={"PYTHONPATH": "."}, capture_output=True, timeout=60
    )
    assert (done.stdout, done.returncode) == (b"done\n", 0), done.stderr.decode()


# --- every size


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_size_is_within_the_error_of_its_dtype(data: st.DataObject) -> None:
    bits, dtype = data.draw(st.integers(2, 8)), data.draw(st.sampled_from(DTYPES))
    n, m = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 20))
    size, groups = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 4))
    spec = LinearSpec(QuantSpec(bits, size, data.draw(st.booleans())))
    q, x = random_weight(spec.weight, (n, size * groups)), random_rows(m, size * groups, dtype)
    weight = q.dequantize(torch.float64)
    exact, sizes = x.double() @ weight.T, x.double().abs() @ weight.abs().T
    y = product(x, packed_weight(q), spec)
    # Digits round each value of a block to 2**-15 or 2**-31 of its largest; sums and the output round to their dtype.
    grid = x.double().abs().amax(-1, keepdim=True) * 2.0 ** (-31 if dtype == torch.float32 else -15)
    allowed = grid * weight.abs().sum(-1) + 2.0**-20 * sizes + torch.finfo(dtype).eps * exact.abs()
    # Zero points are taken off after summing, so that sums pass through all that the codes and zeros hold.
    assert ((y.double() - exact).abs() <= allowed + 2.0**-22 * sizes.amax()).all()
