// Stands in for csrc/cuda/library/ptx.cuh: the same functions, by their definition in the PTX manual.

#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "problem.h"

// A lane gives its part and waits until all lanes of its warp have; then `finish` sees the parts of all 32.
struct Part {
    uint32_t a[4], b[2], c[4];
};
void exchange(const Part& mine, Part (&all)[32]);
void copy_later(uint32_t to, const void* from, int bytes);
void commit_later();
void wait_later(int left);

namespace omniq {

inline uint64_t evict_first() { return 0; }
inline uint4 load_once(const uint4* at, uint64_t) { return *at; }
inline uint2 load_once(const uint2* at, uint64_t) { return *at; }
inline void copy_async(uint32_t shared, const void* global, bool there) { copy_later(shared, global, there ? 16 : 0); }
inline void commit_copies() { commit_later(); }
template <int kLeft>
void wait_copies() {
    wait_later(kLeft);
}

template <bool kBrain>
float half_of(uint32_t pair, int index) {
    const uint16_t bits = static_cast<uint16_t>(pair >> 16 * index);
    if (kBrain) return __bfloat162float({bits});
    __half v;
    __builtin_memcpy(&v, &bits, 2);
    return v;
}
template <bool kBrain>
uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out = 0;
    for (int i = 0; i < 2; ++i) {
        const float v = __builtin_fmaf(half_of<kBrain>(a, i), half_of<kBrain>(b, i), half_of<kBrain>(c, i));
        out |= (kBrain ? bits_of(__float2bfloat16_rn(v)) : bits_of(__float2half_rn(v))) << 16 * i;
    }
    return out;
}

// m16n8k16: A(g + 8 (r % 2), 2t + e + 8 (r / 2)) is half e of register r of lane 4g + t; B(2t + e + 8r, g) half e of
// register r; C(g + 8 (r / 2), 2t + r % 2) register r.
template <bool kBrain>
void multiply_add(float (&sum)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
    Part all[32];
    exchange({{a[0], a[1], a[2], a[3]}, {b0, b1}, {}}, all);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int r = 0; r < 4; ++r) {
        double total = sum[r];
        for (int k = 0; k < 16; ++k) {
            const int lane = k % 8 / 2, upper = k / 8;
            total += static_cast<double>(half_of<kBrain>(all[4 * g + lane].a[r / 2 + 2 * upper], k % 2)) *
                     half_of<kBrain>(all[4 * (2 * t + r % 2) + lane].b[upper], k % 2);
        }
        sum[r] = static_cast<float>(total);
    }
}

// m16n8k64, signed nibbles: A(g + 8 (r % 2), 8t + e + 32 (r / 2)) is nibble e of register r; B(8t + e + 32r, g) nibble
// e of register r; C as above.
inline int nibble(uint32_t word, int e) { return static_cast<int>(word << (28 - 4 * e)) >> 28; }
inline void multiply_codes(int (&sum)[4], const uint4& a, uint2 b) {
    Part all[32];
    exchange({{a.x, a.y, a.z, a.w}, {b.x, b.y}, {}}, all);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int r = 0; r < 4; ++r) {
        for (int k = 0; k < 64; ++k) {
            const int lane = k % 32 / 8, upper = k / 32;
            sum[r] += nibble(all[4 * g + lane].a[r / 2 + 2 * upper], k % 8) *
                      nibble(all[4 * (2 * t + r % 2) + lane].b[upper], k % 8);
        }
    }
}

inline float float_at(const void* from, int64_t index, Type type) {
    switch (type) {
        case kFloat32: return static_cast<const float*>(from)[index];
        case kBFloat16: return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[index]);
        default: return __half2float(static_cast<const __half*>(from)[index]);
    }
}
inline void store_as(void* to, int64_t index, Type type, float value) {
    switch (type) {
        case kFloat32: static_cast<float*>(to)[index] = value; break;
        case kBFloat16: static_cast<__nv_bfloat16*>(to)[index] = __float2bfloat16_rn(value); break;
        default: static_cast<__half*>(to)[index] = __float2half_rn(value);
    }
}

}  // namespace omniq
