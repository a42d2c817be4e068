"""One field of a tile of packed elements, as integers (code - zero): by PTX (`FAST`), or by plain shifts and masks.

Both give the same numbers, exactly. The interpreter has no PTX, and its bfloat16 is not a number: there the float path
gives float32, which the caller multiplies as such.
"""

from __future__ import annotations

import triton
import triton.language as tl

from omniq.kernels._triton.fields import addend_bits, byte_asm, field_width, float_asm, halves_needed, high_bit


@triton.jit
def plain_code(low, high, FIELD: tl.constexpr, BITS: tl.constexpr, ELEMENT: tl.constexpr):
    """Code FIELD of every element, int32: its bits of the low plane and, for 3 bits, its bit of the high plane."""
    WIDTH: tl.constexpr = field_width(BITS)
    code = (low.to(tl.int32) >> (FIELD * WIDTH % ELEMENT)) & (2**WIDTH - 1)
    if BITS == 3:
        code |= ((high.to(tl.int32) >> high_bit(FIELD, ELEMENT)) & 1) << 2
    return code


@triton.jit
def float_field(low, high, zero, FIELD: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr, FAST: tl.constexpr):
    """low, high (BN, E) int16, zero (BN,) int32 -> (BN, E) in DTYPE ('fp16' or 'bf16'); float32 unless FAST."""
    ASM: tl.constexpr = float_asm(FIELD, BITS, DTYPE)
    KIND: tl.constexpr = tl.float16 if DTYPE == "fp16" else tl.bfloat16
    if halves_needed(BITS, DTYPE):
        addend = (-zero).to(tl.float32).to(tl.bfloat16)[:, None]
    else:
        ADDEND: tl.constexpr = addend_bits(FIELD, BITS, DTYPE)
        addend = (ADDEND[0] + (zero << ADDEND[1])).to(tl.int16)[:, None]
    if not FAST:
        return (plain_code(low, high, FIELD, BITS, 16) - zero[:, None]).to(tl.float32)
    elif BITS == 3:
        return tl.inline_asm_elementwise(ASM, "=r,r,r,r", [low, high, addend], KIND.value, is_pure=True, pack=2)
    else:
        return tl.inline_asm_elementwise(ASM, "=r,r,r", [low, addend], KIND.value, is_pure=True, pack=2)


@triton.jit
def byte_field(low, high, zero, FIELD: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, FAST: tl.constexpr):
    """low, high (BN, E) int8, zero (BN,) int32 -> (BN, E) int8, symmetric codes times 2**(8 - BITS)."""
    ASM: tl.constexpr = byte_asm(FIELD, BITS, SYMMETRIC)
    GAIN: tl.constexpr = 8 - BITS if SYMMETRIC else 0
    if not FAST:
        return ((plain_code(low, high, FIELD, BITS, 8) - zero[:, None]) << GAIN).to(tl.int8)
    elif BITS == 3:
        bytes = (zero << GAIN).to(tl.int8)[:, None]
        return tl.inline_asm_elementwise(ASM, "=r,r,r,r", [low, high, bytes], tl.int8, is_pure=True, pack=4)
    else:
        bytes = (zero << GAIN).to(tl.int8)[:, None]
        return tl.inline_asm_elementwise(ASM, "=r,r,r", [low, bytes], tl.int8, is_pure=True, pack=4)
