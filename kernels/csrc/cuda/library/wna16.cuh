// What the kernels of floating-point activations share: a lane's part of one chunk of K, from memory to operands.

#pragma once

#include <type_traits>

#include "launch.h"
#include "ptx.cuh"
#include "unpack.h"

namespace omniq {

// The four scales of a lane (element 2r + h), as stored until they are needed.
struct Scales {
    uint4 raw;

    __device__ __forceinline__ void load(const Weight& w, int64_t at) {
        if (w.scale_type == kFloat32) {
            raw = __ldg(reinterpret_cast<const uint4*>(static_cast<const float*>(w.scales) + at));
        } else {
            const uint2 v = __ldg(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(w.scales) + at));
            raw = make_uint4(v.x, v.y, 0, 0);
        }
    }
    __device__ __forceinline__ void read(Type type, float (&s)[4]) const {
        if (type == kFloat32) {
            s[0] = __uint_as_float(raw.x), s[1] = __uint_as_float(raw.y);
            s[2] = __uint_as_float(raw.z), s[3] = __uint_as_float(raw.w);
        } else if (type == kBFloat16) {
            s[0] = __uint_as_float(raw.x << 16), s[1] = __uint_as_float(raw.x & 0xFFFF0000u);
            s[2] = __uint_as_float(raw.y << 16), s[3] = __uint_as_float(raw.y & 0xFFFF0000u);
        } else {
            const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&raw.x));
            const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&raw.y));
            s[0] = a.x, s[1] = a.y, s[2] = b.x, s[3] = b.y;
        }
    }
};

// A lane's codes of kSteps steps.
template <int kBits, int kSteps>
struct Codes {
    static constexpr int kCovered = kBits == 2 || kBits == 3 ? 2 : 1;
    static constexpr int kLoads = kSteps / kCovered;
    uint4 words[kBits == 8 ? 2 * kLoads : kLoads];
    uint2 high[kBits == 3 ? kLoads : 1];

    // Load i of a chunk whose first step is at `codes` and `tops`.
    __device__ __forceinline__ void load(int i, const uint4* codes, const uint2* tops, uint64_t policy) {
        if constexpr (kBits == 8) {
            words[2 * i] = load_once(codes + 64 * i, policy);
            words[2 * i + 1] = load_once(codes + 64 * i + 32, policy);
        } else {
            words[i] = load_once(codes + 32 * i, policy);
        }
        if constexpr (kBits == 3) high[i] = load_once(tops + 32 * i, policy);
    }
    // All loads whose steps are among the first `steps`; the others leave the registers as they are.
    __device__ __forceinline__ void load_all(int steps, const uint4* codes, const uint2* tops, uint64_t policy) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            if (i * kCovered < steps) load(i, codes, tops, policy);
        }
    }
};

// 16-byte words of all lanes from one step to the next, in codes; and 8-byte words in the top bits of 3-bit codes.
OMNIQ_BOTH constexpr int code_stride(int bits) { return bits == 8 ? 64 : bits == 4 ? 32 : 16; }
constexpr int kHighStride = 16;

// Zero points of a lane (byte 2r + h) -> the subtrahends of each exponent j.
template <int kBits, bool kBrain>
struct Offsets {
    static constexpr int kExponents = kBits == 4 && !kBrain ? 3 : kBits == 4 || kBits == 8 ? 1 : 3;
    uint32_t of[2][2][kExponents];

    __device__ __forceinline__ void set(uint32_t zeros) {
#pragma unroll
        for (int j = 0; j < kExponents; ++j) {
#pragma unroll
            for (int b = 0; b < 4; ++b)
                of[b / 2][b % 2][j] = offset_pair(zeros << (2 * j), b, Format<kBrain>::offset(j));
        }
    }
};

// 8-bit codes have no room in bfloat16's mantissa: they go through float32, whose magic number is 2**23.
__device__ __forceinline__ uint32_t brain_pair(uint32_t word, int first, float offset) {
    const float low = __uint_as_float(__byte_perm(word, 0x4B000000, 0x7540 | first)) - offset;
    const float up = __uint_as_float(__byte_perm(word, 0x4B000000, 0x7540 | (first + 1))) - offset;
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, up);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Step `s` of a chunk -> the operands q - z of row tiles r and products i: a[r][4i + 2c + h].
template <int kBits, bool kBrain, int kSteps>
__device__ __forceinline__ void operands(const Codes<kBits, kSteps>& codes, const Offsets<kBits, kBrain>& z,
                                         uint32_t zeros, int s, uint32_t (&a)[2][8]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if constexpr (kBits == 8) {
            const uint4 v = codes.words[2 * s + r];
            const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int p = 0; p < 8; ++p) {
                const int h = p % 2;
                if constexpr (kBrain) {
                    const float offset = 8388608.0f + static_cast<float>(zeros >> (8 * (2 * r + h)) & 0xFF);
                    a[r][p] = brain_pair(word[p / 2], 2 * h, offset);
                } else {
                    const uint32_t magic = __byte_perm(word[p / 2], 0x64, h ? 0x4342 : 0x4140);
                    a[r][p] = fma_pair<false>(magic, Format<false>::factor(0), z.of[r][h][0]);
                }
            }
        } else {
            const uint4 v = codes.words[s / Codes<kBits, kSteps>::kCovered];
            const uint32_t word[4] = {v.x, v.y, v.z, v.w};
            const int half = s % 2;
            uint32_t high = 0;
            if constexpr (kBits == 3) high = r ? codes.high[s / 2].y : codes.high[s / 2].x;
            uint32_t magic[8];
            magic_pairs<kBits, kBrain>(kBits == 4 ? word + 2 * r : word + 2 * half + r, high, half, magic);
#pragma unroll
            for (int p = 0; p < 8; ++p) {
                const int j = exponent<kBits, kBrain>(p);
                a[r][p] = fma_pair<kBrain>(magic[p], Format<kBrain>::factor(j), z.of[r][p % 2][j]);
            }
        }
    }
}

__device__ __forceinline__ uint32_t zeros_at(const Weight& w, int64_t at) {
    return w.zeros ? __ldg(reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(w.zeros) + at))
                   : static_cast<uint32_t>(w.mid) * 0x01010101u;
}

// total += scale * part, and part starts anew. Rows 2r + h, registers 2h + column of the sums.
template <int kTiles>
__device__ __forceinline__ void add_scaled(float (&total)[2][kTiles][4], float (&part)[2][kTiles][4],
                                           const Scales& scales, Type type) {
    float s[4];
    scales.read(type, s);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                total[r][n][c] = fmaf(part[r][n][c], s[2 * r + c / 2], total[r][n][c]);
                part[r][n][c] = 0.0f;
            }
        }
    }
}

// launch(bits, brain) with both as types, so that they choose the template.
template <class F>
int with_formats(int bits, bool brain, F launch) {
    const auto widths = [&](auto format) {
        switch (bits) {
            case 2: return launch(std::integral_constant<int, 2>{}, format);
            case 3: return launch(std::integral_constant<int, 3>{}, format);
            case 4: return launch(std::integral_constant<int, 4>{}, format);
            default: return launch(std::integral_constant<int, 8>{}, format);
        }
    };
    return brain ? widths(std::true_type{}) : widths(std::false_type{});
}

}  // namespace omniq
