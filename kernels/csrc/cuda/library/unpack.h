// From packed words to tensor-core registers, in integer operations that run on both sides: the tests compare them with
// the packer on a machine without a GPU.
//
// A code is put into the mantissa of a 16-bit number whose exponent makes it base + q * 4**j (magic | field), without a
// conversion. The tensor core's operand is then one fused multiply-add: (base + q * 4**j) * 4**-j - (base * 4**-j + z)
// = q - z, exact in both formats. The subtrahend is made of the zero point's byte by one byte permutation:
// its low byte is z << 2j, its high byte depends on the format and j alone. Fields at bits 0, 2 and 4 fit bfloat16's
// seven mantissa bits, so three 2-bit fields are read between shifts; 4-bit fields at bits 0 and 4 fit float16 only.

#pragma once

#include "problem.h"

namespace omniq {

template <bool kBrain>
struct Format;
template <>
struct Format<false> {  // float16: 1024 = 0x6400
    static constexpr uint32_t kMagic = 0x64006400;
    OMNIQ_BOTH static constexpr uint32_t factor(int j) {
        return j == 0 ? 0x3C003C00 : j == 1 ? 0x34003400 : 0x2C002C00;
    }
    OMNIQ_BOTH static constexpr uint32_t offset(int j) { return j == 0 ? 0xE4 : j == 1 ? 0xDC : 0xD4; }
};
template <>
struct Format<true> {  // bfloat16: 128 = 0x4300
    static constexpr uint32_t kMagic = 0x43004300;
    OMNIQ_BOTH static constexpr uint32_t factor(int j) {
        return j == 0 ? 0x3F803F80 : j == 1 ? 0x3E803E80 : 0x3D803D80;
    }
    OMNIQ_BOTH static constexpr uint32_t offset(int j) { return j == 0 ? 0xC3 : j == 1 ? 0xC2 : 0xC1; }
};

// Byte `index` of z, twice, each below `high`: a pair of 16-bit numbers.
OMNIQ_BOTH uint32_t offset_pair(uint32_t z, int index, uint32_t high) {
#if defined(__CUDA_ARCH__)
    return __byte_perm(z, high, 0x4040 | index | index << 8);
#else
    const uint32_t half = high << 8 | (z >> (8 * index) & 0xFF);
    return half | half << 16;
#endif
}

// One instruction; from plain C the compiler makes two, since an instruction holds one constant.
OMNIQ_BOTH uint32_t masked_or(uint32_t value, uint32_t mask, uint32_t other) {
#if defined(__CUDA_ARCH__)
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(value), "r"(mask), "r"(other));
    return result;
#else
    return (value & mask) | other;
#endif
}

// The power of 4 that register `p` (4i + 2c + h) of a row tile carries.
template <int kBits, bool kBrain>
OMNIQ_BOTH constexpr int exponent(int p) {
    return kBits == 4 ? (kBrain ? 0 : 2 * (p % 2)) : kBits == 8 ? 0 : p % 3;
}

// The eight registers of one row tile and step, as magic numbers. `words`: 4 bits: one for each i; 2 and 3 bits: one,
// with the top bits in `high`.
template <int kBits, bool kBrain>
OMNIQ_BOTH void magic_pairs(const uint32_t* words, uint32_t high, int s, uint32_t (&out)[8]) {
    using F = Format<kBrain>;
    if constexpr (kBits == 4) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                const int j = exponent<4, kBrain>(p);
                out[4 * i + p] = masked_or(words[i] >> (4 * p - 2 * j), 0x000F000Fu << (2 * j), F::kMagic);
            }
        }
    } else {
#pragma unroll
        for (int p = 0; p < 8; ++p) {
            const int j = p % 3, third = p / 3;
            out[p] = masked_or(words[0] >> (6 * third), 0x00030003u << (2 * j), F::kMagic);
            if constexpr (kBits == 3) {
                // From bit 2p + s to bit 2j + 2.
                const int right = 6 * third + s - 2;
                const uint32_t moved = right < 0 ? high << (-right & 31) : high >> (right & 31);
                out[p] = masked_or(moved, 0x00040004u << (2 * j), out[p]);
            }
        }
    }
}

}  // namespace omniq
