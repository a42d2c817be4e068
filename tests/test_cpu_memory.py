"""The CPU library touches its own memory only, and Python refuses what would lead it elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from cpu_subjects import DTYPES, ISAS, needs_library, random_rows, random_weight
from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.kernels.cpu import multiply
from omniq.kernels.cpu_layout import lines_of, packed_weight, stored_bits
from omniq.kernels.dispatch import KERNELS
from omniq.kernels.native import cpu_library
from omniq.kernels.shared_library import TYPES
from omniq.spec import LinearSpec

pytestmark = needs_library
POISON = 0xA5
MARGIN = 256


class Guarded:
    """A copy of a tensor in the middle of poisoned memory, `shift` elements off a multiple of 64 bytes."""

    def __init__(self, like: Tensor, shift: int) -> None:
        size, nbytes = like.element_size(), like.numel() * like.element_size()
        self.room = torch.full((MARGIN + nbytes + MARGIN + 64,), POISON, dtype=torch.uint8)
        self.first = MARGIN + -self.room.data_ptr() % 64 + (shift * size) % 64
        self.last = self.first + nbytes
        self.tensor = self.room[self.first : self.last].view(like.dtype).view(like.shape)
        self.tensor.copy_(like)
        self.content = self.tensor.clone()

    def untouched_outside(self) -> bool:
        return bool((self.room[: self.first] == POISON).all() and (self.room[self.last :] == POISON).all())

    def untouched(self) -> bool:
        return self.untouched_outside() and torch.equal(self.tensor, self.content)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ["W2A16", "W3A16g20-asym", "W4A16g32-asym", "W8A16", "W4A8g20-asym"])
def test_outputs_are_written_whole_and_nothing_else_is(
    scheme: str, dtype: torch.dtype, isa: str, use_isa: Callable
) -> None:
    use_isa(isa)
    spec = LinearSpec.parse(scheme)
    for n, k, m, shift in ((1, 160, 1, 1), (33, 160, 3, 3), (70, 320, 17, 7)):
        packed = packed_weight(random_weight(spec.weight, (n, k), dtype))
        x = random_rows(m, k, dtype)
        expected = torch.empty(m, n, dtype=dtype)
        multiply(x, packed, spec, KERNELS["cpu"].digits[dtype], expected)
        weight = {name: Guarded(tensor, shift) for name, tensor in packed.items() if name != "sizes"}
        rows, out = Guarded(x, shift), Guarded(torch.full((m, n), float("nan"), dtype=dtype), shift)
        multiply(
            rows.tensor, {name: g.tensor for name, g in weight.items()}, spec, KERNELS["cpu"].digits[dtype], out.tensor
        )
        assert all(guarded.untouched() for guarded in (*weight.values(), rows))
        assert out.untouched_outside()
        assert torch.equal(out.tensor, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scheme", ["W2A16g20-asym", "W3A16g40", "W4A16g20-asym", "W6A16g20", "W4A8g20-asym"])
def test_what_lies_in_the_padding_does_not_matter(scheme: str, isa: str, use_isa: Callable) -> None:
    use_isa(isa)
    spec, shape = LinearSpec.parse(scheme), (70, 160)
    q, x = random_weight(spec.weight, shape), random_rows(5, 160)
    packed = packed_weight(q)
    width = stored_bits(q.spec.bits)
    used = lines_of(torch.full(shape, 2**width - 1, dtype=torch.uint8), q.scales.shape[1], width)
    poisoned = packed | {"lines": packed["lines"] | ~used, "scales": packed["scales"].clone()}
    assert not torch.equal(poisoned["lines"], packed["lines"])
    poisoned["scales"][1, :, 6:] = float("nan")
    if "zeros" in packed:
        poisoned["zeros"] = packed["zeros"].clone()
        poisoned["zeros"][1, :, 6:] = 255
    for kernel in ("cpu", "cpu_int8") if spec.input is None else ("cpu",):
        expected = KERNELS[kernel].apply(x, packed, spec)
        assert torch.equal(KERNELS[kernel].apply(x, poisoned, spec), expected)


def test_not_a_byte_is_read_past_the_end_or_before_the_start(request: pytest.FixtureRequest) -> None:
    # Fetching ahead goes past the end of the weights on purpose: a prefetch cannot fault.
    tests = request.path.parent
    done = subprocess.run(
        [sys.executable, str(tests / "guarded_pages.py"), *ISAS],
        env={"PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [b"done"]), done.stdout.decode() + done.stderr.decode()


# --- inputs


@pytest.mark.parametrize(
    ("scheme", "kernel"),
    [("W4A16g32", "cpu"), ("W4A16g32", "cpu_int8"), ("W4A8g32", "cpu"), ("W4A4g32-actasym", "cpu")],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_any_strides_give_the_same_bits(dtype: torch.dtype, scheme: str, kernel: str) -> None:
    spec = LinearSpec.parse(scheme)
    packed, x = packed_weight(random_weight(spec.weight, (40, 96))), random_rows(6, 96, dtype)
    expected = KERNELS[kernel].apply(x, packed, spec)
    wide = torch.full((6, 200), float("nan"), dtype=dtype)
    wide[:, 3:99] = x
    spread = torch.full((6, 192), float("nan"), dtype=dtype)
    spread[:, ::2] = x
    for same in (wide[:, 3:99], spread[:, ::2], x.T.contiguous().T, x.repeat_interleave(2, 0)[::2]):
        assert torch.equal(same, x)
        assert torch.equal(KERNELS[kernel].apply(same, packed, spec), expected), same.stride()
    repeated = x[:1].expand(6, 96)
    assert torch.equal(KERNELS[kernel].apply(repeated, packed, spec), expected[:1].expand(6, 40))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_rows_give_no_rows_in_every_dtype(dtype: torch.dtype) -> None:
    spec = LinearSpec.parse("W4A16g32")
    y = KERNELS["cpu"].apply(torch.empty(0, 96, dtype=dtype), packed_weight(random_weight(spec.weight, (40, 96))), spec)
    assert (y.shape, y.dtype) == ((0, 40), dtype)


BAD_INPUTS = {
    "float64": (torch.zeros(2, 96, dtype=torch.float64), "torch.float64"),
    "integers": (torch.zeros(2, 96, dtype=torch.int32), "torch.int32"),
    "complex": (torch.zeros(2, 96, dtype=torch.complex64), "torch.complex64"),
    "another device": (torch.zeros(2, 96, device="meta"), "on meta"),
    "too wide": (torch.zeros(2, 97), r"\(2, 97\).*\(M, 96\)"),
    "too narrow": (torch.zeros(0, 95), r"\(0, 95\)"),
    "one dimension": (torch.zeros(96), r"\(96,\)"),
    "three dimensions": (torch.zeros(1, 2, 96), r"\(1, 2, 96\)"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("kernel", ["cpu", "cpu_int8"])
def test_an_input_that_the_library_would_misread_is_refused(kernel: str, case: str) -> None:
    spec, (x, words) = LinearSpec.parse("W4A16g32"), BAD_INPUTS[case]
    with pytest.raises(RuntimeError, match=words):
        KERNELS[kernel].apply(x, packed_weight(random_weight(spec.weight, (40, 96))), spec)


DAMAGE: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "lines cut": lambda p: {"lines": p["lines"][:1]},
    "lines of a flat shape": lambda p: {"lines": p["lines"].flatten()},
    "lines of another dtype": lambda p: {"lines": p["lines"].view(torch.int8)},
    "lines in another order": lambda p: {"lines": p["lines"].transpose(0, 1).contiguous().transpose(0, 1)},
    "scales cut": lambda p: {"scales": p["scales"][..., :-1]},
    "scales of another dtype": lambda p: {"scales": p["scales"].double()},
    "scales as integers": lambda p: {"scales": p["scales"].int()},
    "scales in another order": lambda p: {"scales": p["scales"].transpose(0, 1).contiguous().transpose(0, 1)},
    "zeros cut": lambda p: {"zeros": p["zeros"][:, :1]},
    "zeros of another dtype": lambda p: {"zeros": p["zeros"].int()},
    "more rows than packed": lambda p: {"sizes": torch.tensor([129, 96])},
    "more columns than packed": lambda p: {"sizes": torch.tensor([70, 128])},
    "no rows": lambda p: {"sizes": torch.tensor([0, 96])},
    "fewer than no rows": lambda p: {"sizes": torch.tensor([-70, 96])},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_packed_tensors_of_another_layout_are_refused(damage: str) -> None:
    spec = LinearSpec.parse("W4A16g32-asym")
    packed = packed_weight(random_weight(spec.weight, (70, 96)))
    packed |= DAMAGE[damage](packed)
    with pytest.raises(RuntimeError, match=r"packed (lines|scales|zeros)|takes \(M, 128\)"):
        KERNELS["cpu"].apply(torch.zeros(2, 96), packed, spec)


@pytest.mark.parametrize("leaf", ["lines", "scales", "zeros", "sizes"])
def test_a_packed_tensor_that_is_missing_is_named(leaf: str) -> None:
    spec = LinearSpec.parse("W4A16g32-asym")
    packed = packed_weight(random_weight(spec.weight, (70, 96)))
    del packed[leaf]
    with pytest.raises((KeyError, RuntimeError), match=leaf):
        KERNELS["cpu"].apply(torch.zeros(2, 96), packed, spec)


def test_zeros_of_a_symmetric_layer_are_never_read() -> None:
    spec = LinearSpec.parse("W4A16g32")
    packed, x = packed_weight(random_weight(spec.weight, (70, 96))), random_rows(2, 96)
    stray = packed | {"zeros": torch.zeros(1, dtype=torch.uint8)}
    assert torch.equal(KERNELS["cpu"].apply(x, stray, spec), KERNELS["cpu"].apply(x, packed, spec))


def test_scales_of_a_dtype_that_the_library_lacks_are_refused_when_packing() -> None:
    spec = LinearSpec.parse("W4A16g32")
    with pytest.raises(UnsupportedError, match=r"torch\.float64"):
        KERNELS["cpu"].prepack(random_weight(spec.weight, (40, 96), torch.float64), spec)


BAD_NUMBERS = {
    "bits": (11, 5),
    "outputs": (13, 0),
    "columns": (14, -96),
    "group": (15, 36),
    "no group": (15, 0),
    "digits": (16, 5),
    "no digits": (16, 0),
    "threads": (17, 0),
    "rows": (2, -1),
    "type of x": (1, 3),
    "type of scales": (8, -1),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_the_library_itself_answers_nonsense_with_a_status(case: str) -> None:
    packed = packed_weight(random_weight(LinearSpec.parse("W4A16g32-asym").weight, (70, 96)))
    x, y = random_rows(2, 96), torch.full((2, 70), 7.0)
    lines, scales, zeros = (packed[name].data_ptr() for name in ("lines", "scales", "zeros"))
    arguments = [
        x.data_ptr(),
        TYPES[x.dtype],
        2,
        96,
        y.data_ptr(),
        70,
        lines,
        scales,
        0,
        zeros,
        0,
        4,
        8,
        70,
        96,
        32,
        4,
        1,
    ]
    del arguments[10]
    place, value = BAD_NUMBERS[case]
    place -= place > 9
    assert cpu_library()[0].omniq_cpu_linear(*arguments) == 0
    y.fill_(7)
    arguments[place] = value
    assert cpu_library()[0].omniq_cpu_linear(*arguments) == 2
    assert (y == 7).all()
