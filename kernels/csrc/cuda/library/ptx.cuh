// The instructions that CUDA C++ has no name for.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "problem.h"

namespace omniq {

// Weights are read once: past the level-1 cache, and first to leave the level-2 cache.
__device__ __forceinline__ uint64_t evict_first() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ uint4 load_once(const uint4* at, uint64_t policy) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at), "l"(policy));
    return v;
}
__device__ __forceinline__ uint2 load_once(const uint2* at, uint64_t policy) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(at), "l"(policy));
    return v;
}

// 16 bytes from global to shared memory behind the processor's back; zeros where `there` is false.
__device__ __forceinline__ void copy_async(uint32_t shared, const void* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

template <bool kBrain>
__device__ __forceinline__ uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    if constexpr (kBrain) {
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    } else {
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    }
    return d;
}

// sum (16, 8) += a (16, 16) * b (16, 8).
template <bool kBrain>
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
    if constexpr (kBrain) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
            "%1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
            "%2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

// The same with signed nibbles, k = 64, in int32. Devices from 9.0 on have no such unit, and no code for it.
__device__ __forceinline__ void multiply_codes(int (&sum)[4], const uint4& a, uint2 b) {
#if __CUDA_ARCH__ < 900
    asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
#endif
}

__device__ __forceinline__ float float_at(const void* from, int64_t index, Type type) {
    switch (type) {
        case kFloat32: return static_cast<const float*>(from)[index];
        case kBFloat16: return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[index]);
        default: return __half2float(static_cast<const __half*>(from)[index]);
    }
}
__device__ __forceinline__ void store_as(void* to, int64_t index, Type type, float value) {
    switch (type) {
        case kFloat32: static_cast<float*>(to)[index] = value; break;
        case kBFloat16: static_cast<__nv_bfloat16*>(to)[index] = __float2bfloat16_rn(value); break;
        default: static_cast<__half*>(to)[index] = __float2half_rn(value);
    }
}

}  // namespace omniq
