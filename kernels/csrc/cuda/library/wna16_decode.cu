// Up to 8 tokens, weights of 2, 3, 4 or 8 bits, activations in float16 or bfloat16: the matrix-vector kernel.
//
// Tile. A block owns one unit of 32 rows; its 4, 8 or 16 warps share out K in chunks of neighbouring columns. Weights
// are the left operand of the tensor core, straight from memory; the 8 tokens are its right operand, so one token costs
// what eight cost. Sums of a chunk (at most 128 columns of one group) are exact products of integers and
// activations in float32; the scale multiplies the sum, not the weight. The warps' sums are added in order: the
// result is the same in every run, and the same for a token whatever its neighbours are.
//
// What limits it: memory. A warp loads its next chunk while it computes on the last, 16 warps a multiprocessor at 128
// registers: 32 KB of 4-bit weights in flight. No shared memory but for the last sum.

#include "wna16.cuh"

namespace omniq {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kTokenStride = kUnit + 4;  // in floats; the 4 keep the store of the sums free of bank conflicts

// kFine: groups are smaller than a chunk of 128 columns or do not divide into such; then every step has its own scale.
template <int kBits, bool kBrain, bool kFine>
struct Chunk {
    static constexpr int kSteps = kFine || kBits == 8 ? 2 : 4;  // as much as registers hold twice
    static constexpr int kScales = kFine ? kSteps : 1;
    Codes<kBits, kSteps> codes;
    uint4 x[kSteps];
    Scales scales[kScales];
    uint32_t zeros[kScales];
};

// A lane's places in memory.
struct Lane {
    const uint4* codes;
    const uint2* high;
    const uint4* x;
    int64_t first_scale;
    uint64_t policy;
    uint32_t reciprocal;
    int end;    // steps stored
    int x_end;  // steps that hold activations for this lane; none where its column is no token
};

template <bool kWhole, int kBits, bool kBrain, bool kFine>
__device__ __forceinline__ void load(Chunk<kBits, kBrain, kFine>& chunk, const Lane& lane, const Weight& w, int first) {
    using C = Chunk<kBits, kBrain, kFine>;
    const int steps = kWhole ? C::kSteps : lane.end - first;
    chunk.codes.load_all(steps, lane.codes + first * code_stride(kBits), lane.high + first * kHighStride, lane.policy);
    const uint4* x = lane.x + 4 * first;
    const bool token = lane.x_end > 0;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
        if (kWhole ? token : first + s < lane.x_end) chunk.x[s] = __ldg(x + 4 * s);
        if (!kWhole && first + s >= lane.x_end) chunk.x[s] = make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int s = 0; s < C::kScales; ++s) {
        const int step = kWhole || first + s < lane.end ? first + s : lane.end - 1;
        const int64_t at = lane.first_scale + static_cast<int64_t>(group_of(step, lane.reciprocal)) * kUnit;
        chunk.scales[s].load(w, at);
        chunk.zeros[s] = zeros_at(w, at);
    }
}

// Steps that are not stored multiply whatever the registers hold, which is finite, with zeros.
template <int kBits, bool kBrain, bool kFine>
__device__ __forceinline__ void add(float (&total)[2][1][4], const Chunk<kBits, kBrain, kFine>& chunk,
                                    Type scale_type) {
    using C = Chunk<kBits, kBrain, kFine>;
    float part[2][1][4] = {};
    Offsets<kBits, kBrain> z;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
        const int own = kFine ? s : 0;
        if (kFine || s == 0) z.set(chunk.zeros[own]);
        uint32_t a[2][8];
        operands<kBits, kBrain, C::kSteps>(chunk.codes, z, chunk.zeros[own], s, a);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            multiply_add<kBrain>(part[r][0], a[r], chunk.x[s].x, chunk.x[s].y);
            multiply_add<kBrain>(part[r][0], a[r] + 4, chunk.x[s].z, chunk.x[s].w);
        }
        if (kFine) add_scaled<1>(total, part, chunk.scales[own], scale_type);
    }
    if (!kFine) add_scaled<1>(total, part, chunk.scales[0], scale_type);
}

// Adds the warps' sums in order and stores what exists of 32 rows and 8 tokens.
__device__ __forceinline__ void store_sum(const float (&total)[2][1][4], const Call& call) {
    __shared__ float sums[kMaxWarps][kDecodeRows][kTokenStride];
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[warp][2 * t + c % 2][16 * r + 8 * (c / 2) + g] = total[r][0][c];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kUnit * static_cast<int>(call.rows); i += blockDim.x) {
        const int row = i % kUnit, token = i / kUnit;
        const int64_t output = static_cast<int64_t>(blockIdx.x) * kUnit + row;
        float sum = 0.0f;
        for (int other = 0; other < static_cast<int>(blockDim.x) / kLanes; ++other) sum += sums[other][token][row];
        if (output < call.weight.outputs) store_as(call.y, token * call.weight.outputs + output, call.y_type, sum);
    }
}

template <int kBits, bool kBrain, bool kFine>
__global__ void __launch_bounds__(kMaxWarps* kLanes, 1) decode(const __grid_constant__ Call call, uint32_t reciprocal) {
    using C = Chunk<kBits, kBrain, kFine>;
    const Weight& w = call.weight;
    const int number = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, warps = blockDim.x / kLanes, g = number / 4,
              t = number % 4;
    const int64_t unit = blockIdx.x;
    Lane lane;
    lane.end = stored_steps(w);
    const int64_t steps = unit * lane.end;
    lane.codes = static_cast<const uint4*>(w.codes) + steps * code_stride(kBits) + number;
    lane.high = static_cast<const uint2*>(w.high) + steps * kHighStride + number;
    lane.x = reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(call.x) + g * call.stride) + t;
    lane.first_scale = unit * groups(w) * kUnit + 4 * g;
    lane.policy = evict_first();
    lane.reciprocal = reciprocal;
    lane.x_end = g < call.rows ? static_cast<int>((w.columns - 8 * t + kStep - 1) / kStep) : 0;

    // Chunks that are whole are shared out; what is left over goes to the last warp.
    const int whole = static_cast<int>(w.columns / (C::kSteps * kStep));
    const int first = static_cast<int>(static_cast<int64_t>(whole) * warp / warps) * C::kSteps;
    const int last = static_cast<int>(static_cast<int64_t>(whole) * (warp + 1) / warps) * C::kSteps;
    float total[2][1][4] = {};
    C even, odd;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) even.x[s] = odd.x[s] = make_uint4(0, 0, 0, 0);
    if (first < last) load<true>(even, lane, w, first);
    for (int at = first; at < last; at += 2 * C::kSteps) {
        const int next = at + C::kSteps;
        if (next < last) load<true>(odd, lane, w, next);
        add(total, even, w.scale_type);
        if (next >= last) break;
        if (next + C::kSteps < last) load<true>(even, lane, w, next + C::kSteps);
        add(total, odd, w.scale_type);
    }
    if (warp == warps - 1 && whole * C::kSteps < lane.end) {
        load<false>(odd, lane, w, whole * C::kSteps);
        add(total, odd, w.scale_type);
    }
    store_sum(total, call);
}

}  // namespace

// As many warps a unit as the device holds at once: 16 a multiprocessor. Few units get more warps each.
int decode_warps(const Weight& w, int multiprocessors) {
    const int64_t room = static_cast<int64_t>(multiprocessors) * kMaxWarps * 5 / 4,
                  chunks = divided_up(w.columns, 4 * kStep);
    int warps = kMaxWarps;
    while (warps > 4 && (units(w.outputs) * warps > room || warps > chunks)) warps /= 2;
    return warps;
}

int wna16_decode(const Call& call) {
    const Weight& w = call.weight;
    uint32_t reciprocal = group_reciprocal(w.group);
    const dim3 grid(static_cast<unsigned>(units(w.outputs))), block(kLanes * decode_warps(w, call.multiprocessors));
    void* arguments[] = {const_cast<Call*>(&call), &reciprocal};
    const bool fine = w.group % (4 * kStep) != 0;
    return with_formats(w.bits, call.x_type == kBFloat16, [&](auto bits, auto brain) {
        const void* kernel = fine ? reinterpret_cast<const void*>(&decode<bits, brain, true>)
                                  : reinterpret_cast<const void*>(&decode<bits, brain, false>);
        return launched(kernel, grid, block, arguments, call.device, call.stream, "wna16_decode");
    });
}

}  // namespace omniq
