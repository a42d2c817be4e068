// What the CUDA sources of csrc/cuda use of CUDA, on a CPU: a block's threads are coroutines that run one after another
// up to the next place where they wait for each other. Slow, and exact about who sees what: memory copied in the
// background arrives only when it is waited for, stacks start as NaN, and a block that does not end is reported.

#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static
#define CUDART_VERSION 0

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaError_t = int;
using cudaStream_t = void*;
struct cudaFuncAttributes {};
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return 0; }
inline cudaError_t cudaGetLastError() { return 0; }
inline const char* cudaGetErrorString(cudaError_t) { return "the emulated block does not end"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulator"; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)()) { return 0; }
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream);

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();

template <class T>
T __ldg(const T* at) {
    return *at;
}
template <class T>
uint32_t bits_of(T v) {
    uint32_t bits = 0;
    __builtin_memcpy(&bits, &v, sizeof v);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float v;
    __builtin_memcpy(&v, &bits, 4);
    return v;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    return out;
}
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Shared memory is at 32-bit addresses: distances from one place of the library's own data.
extern char shared_origin;
inline size_t __cvta_generic_to_shared(const void* p) {
    return static_cast<uint32_t>(static_cast<const char*>(p) - &shared_origin);
}
