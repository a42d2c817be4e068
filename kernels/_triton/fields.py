"""Where a code sits in a packed element, and the PTX that turns two or four elements into integers (code - zero).

A field is the place of one code in a packed element of 16 bits (float path) or 8 bits (int8 path).

float16 and bfloat16. OR-ing a code into the mantissa of 2**m (m = 10 or 7 mantissa bits) gives 2**m + code * 2**b,
where b is the code's place in the element; one fma by 2**-b, whose addend is -(2**m / 2**b + zero), leaves exactly
code - zero. The element is shifted first only where the code does not lie within the mantissa. A code of 8 bits does
not fit bfloat16's mantissa at all and is put together from two halves.

int8. Symmetric codes are moved to the top of their byte, where flipping the first bit makes them signed; they then
count 2**(8 - bits) times. Asymmetric codes lose their zero point inside their byte: ((code | 0x80) - zero) ^ 0x80,
which cannot borrow from the next byte.

Every function here runs at compile time, and may call only others that do.
"""

from __future__ import annotations

import triton

MANTISSA = {"fp16": 10, "bf16": 7}
ONE_HALF = {"fp16": 15, "bf16": 127}
FMA = {"fp16": "fma.rn.f16x2", "bf16": "fma.rn.bf16x2"}
REACH = {"fp16": {2: 10, 3: 8, 4: 8}, "bf16": {2: 6, 3: 6, 4: 4}}
"""The period of shifts: fields this many bits apart are brought to the same place, those between are left in theirs."""


@triton.constexpr_function
def field_width(bits):
    """The bits that a code takes in its element: 2, 4 or 8. A 3-bit code takes 2, and 1 in the high plane."""
    return 2 if bits <= 3 else 4 if bits == 4 else 8


@triton.constexpr_function
def field_count(bits, element):
    """Fields of a tile, which is dots of a tile: the fields of an element, twice for 3 bits (two low planes)."""
    return element // field_width(bits) * (2 if bits == 3 else 1)


@triton.constexpr_function
def high_bit(i, element):
    """The bit of the high plane's element that holds the top bit of 3-bit code i.

    16 bits: codes 4c to 4c + 3 lie two bits apart, as they do in the low plane, so that one shift aligns all four.
    """
    return i if element == 8 else (i // 4 % 2) * 8 + i // 8 + 2 * (i % 4)


@triton.constexpr_function
def place(i, bits, dtype):
    """(shift, b): shifted right by `shift`, field i of 16 bits starts at bit b and ends inside the mantissa."""
    offset = i * field_width(bits) % 16
    rest = offset % REACH[dtype].get(bits, 8)
    return offset - rest, rest


@triton.constexpr_function
def halves_needed(bits, dtype):
    """Whether a code is wider than the mantissa, so that float_asm takes -zero itself as its addend."""
    return bits == 8 and dtype == "bf16"


@triton.constexpr_function
def addend_bits(i, bits, dtype):
    """(base, b): the bits of float_asm's addend -(2**m / 2**b + zero) are base + (zero << b)."""
    b = place(i, bits, dtype)[1]
    return 0x8000 | (ONE_HALF[dtype] + MANTISSA[dtype] - b) << MANTISSA[dtype], b


@triton.constexpr_function
def float_asm(i, bits, dtype):
    """PTX: field i of two 16-bit elements -> two integers (code - zero) in `dtype`.

    $1 is the low plane, then comes the high plane (3 bits only), then the addend.
    """
    if halves_needed(bits, dtype):
        return scope(halves_asm(i))
    shift, b = place(i, bits, dtype)
    mask = twice((2 ** field_width(bits) - 1) << b)
    code = [moved("t", "$1", shift), f"lop3.b32 t, t, {mask:#x}, {power(MANTISSA[dtype], dtype):#x}, 0xEA;"]
    if bits == 3:
        code += [moved("u", "$2", high_bit(i, 16) - b - 2), f"lop3.b32 t, u, {twice(4 << b):#x}, t, 0xEA;"]
    code += [f"mov.b32 v, {power(-b, dtype):#x};", f"{FMA[dtype]} $0, t, v, {'$3' if bits == 3 else '$2'};"]
    return scope(code)


@triton.constexpr_function
def halves_asm(i):
    """PTX lines: byte i of two elements -> bfloat16: (2048 + 16 h) - 2048 + (128 + l) - 128 + $2, every sum exact."""
    code = [f"mov.b32 w, {power(0, 'bf16'):#x};"]
    for register, shift, base in (("t", 8 * i + 4, power(11, "bf16")), ("u", 8 * i, power(7, "bf16"))):
        code += [
            moved(register, "$1", shift),
            f"lop3.b32 {register}, {register}, {twice(15):#x}, {base:#x}, 0xEA;",
            f"mov.b32 v, {base | twice(0x8000):#x};",
            f"fma.rn.bf16x2 {register}, {register}, w, v;",
        ]
    return [*code, "fma.rn.bf16x2 t, t, w, u;", "fma.rn.bf16x2 $0, t, w, $2;"]


@triton.constexpr_function
def byte_asm(i, bits, symmetric):
    """PTX: field i of four 8-bit elements -> four int8: (code - zero), or (code - mid) * 2**(8 - bits) when symmetric.

    $1 is the low plane, then comes the high plane (3 bits only), then the zeros: 0x80 when symmetric.
    """
    width, zero = field_width(bits), "$3" if bits == 3 else "$2"
    target = 8 - bits if symmetric else 0
    code = [moved("t", "$1", i * width % 8 - target)]
    code.append(f"and.b32 t, t, {four((2**width - 1) << target):#x};")
    if bits == 3:
        code += [moved("u", "$2", high_bit(i, 8) - target - 2), f"lop3.b32 t, u, {four(4 << target):#x}, t, 0xEA;"]
    if symmetric:
        return scope([*code, f"xor.b32 $0, t, {zero};"])
    return scope([*code, "or.b32 t, t, 0x80808080;", f"sub.s32 t, t, {zero};", "xor.b32 $0, t, 0x80808080;"])


@triton.constexpr_function
def moved(target, source, right):
    """A PTX line: target = source shifted right by `right`, left when negative. What crosses is masked off later."""
    return f"{'shr' if right >= 0 else 'shl'}.b32 {target}, {source}, {abs(right)};"


@triton.constexpr_function
def power(exponent, dtype):
    """2**exponent in `dtype`, in both halves of a register."""
    return twice((ONE_HALF[dtype] + exponent) << MANTISSA[dtype])


@triton.constexpr_function
def twice(half):
    """16 bits, in both halves of a register."""
    return half * 0x10001


@triton.constexpr_function
def four(byte):
    """8 bits, in every byte of a register."""
    return byte * 0x01010101


@triton.constexpr_function
def scope(code):
    """The lines as one PTX scope with its scratch registers."""
    return "{ .reg .b32 t, u, v, w; " + " ".join(code) + " }"
