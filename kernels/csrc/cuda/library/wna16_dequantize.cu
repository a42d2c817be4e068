// A packed weight -> its values (N, K), each rounded once: for so many tokens that torch's own product is faster.
//
// A warp writes one step of one unit: a lane holds 8 neighbouring columns of each of its four rows, 16 bytes in a
// 16-bit type. What limits it: memory, mostly the writes, 64 bytes in a row for each row.

#include "wna16.cuh"

namespace omniq {
namespace {

constexpr int kWarps = 8;

__device__ __forceinline__ float2 pair_of(uint32_t bits) {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

__device__ __forceinline__ uint32_t packed(float2 v, Type type) {
    if (type == kBFloat16) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v.x, v.y);
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
    const __half2 pair = __floats2half2_rn(v.x, v.y);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Registers h, 2 + h, 4 + h, 6 + h of row tile r are columns 0 to 7 of row 16r + 8h + g.
__device__ __forceinline__ void store_row(const Call& call, int64_t row, int64_t column, const uint32_t* a,
                                          float scale) {
    float2 v[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) v[p] = pair_of(a[2 * p]), v[p].x *= scale, v[p].y *= scale;
    const int64_t at = row * call.weight.columns + column;
    if (call.y_type == kFloat32) {
        float4* to = reinterpret_cast<float4*>(static_cast<float*>(call.y) + at);
        to[0] = make_float4(v[0].x, v[0].y, v[1].x, v[1].y);
        to[1] = make_float4(v[2].x, v[2].y, v[3].x, v[3].y);
    } else {
        const Type type = call.y_type;
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(call.y) + at) =
            make_uint4(packed(v[0], type), packed(v[1], type), packed(v[2], type), packed(v[3], type));
    }
}

template <int kBits>
__global__ void __launch_bounds__(kWarps* kLanes) dequantize(const __grid_constant__ Call call, uint32_t reciprocal) {
    constexpr int kSteps = Codes<kBits, 2>::kCovered;
    const Weight& w = call.weight;
    const int number = threadIdx.x % kLanes, g = number / 4, t = number % 4, end = stored_steps(w);
    const int64_t unit = blockIdx.x;
    const int first = (blockIdx.y * kWarps + threadIdx.x / kLanes) * kSteps;
    if (first >= end) return;
    Codes<kBits, kSteps> codes;
    codes.load(0, static_cast<const uint4*>(w.codes) + (unit * end + first) * code_stride(kBits) + number,
               static_cast<const uint2*>(w.high) + (unit * end + first) * kHighStride + number, evict_first());
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
        const int64_t at =
            unit * groups(w) * kUnit + 4 * g + static_cast<int64_t>(group_of(first + s, reciprocal)) * kUnit;
        Scales scales;
        scales.load(w, at);
        float scale[4];
        scales.read(w.scale_type, scale);
        const uint32_t zeros = zeros_at(w, at);
        Offsets<kBits, false> z;
        z.set(zeros);
        uint32_t a[2][8];
        operands<kBits, false, kSteps>(codes, z, zeros, s, a);
        const int64_t column = static_cast<int64_t>(first + s) * kStep + 8 * t;
#pragma unroll
        for (int b = 0; b < 4; ++b) {
            const int64_t row = unit * kUnit + 8 * b + g;
            if (row < w.outputs && column < w.columns) store_row(call, row, column, a[b / 2] + b % 2, scale[b]);
        }
    }
}

}  // namespace

int wna16_dequantize(const Call& call) {
    const Weight& w = call.weight;
    uint32_t reciprocal = group_reciprocal(w.group);
    const int64_t rounds = divided_up(stored_steps(w), static_cast<int64_t>(kWarps) * load_steps(w.bits));
    const dim3 grid(static_cast<unsigned>(units(w.outputs)), static_cast<unsigned>(rounds));
    void* arguments[] = {const_cast<Call*>(&call), &reciprocal};
    return with_formats(w.bits, false, [&](auto bits, auto) {
        return launched(reinterpret_cast<const void*>(&dequantize<bits>), grid, dim3(kWarps * kLanes), arguments,
                        call.device, call.stream, "wna16_dequantize");
    });
}

}  // namespace omniq
