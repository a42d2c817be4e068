// Integers of at most 4 bits on both sides, on the int4 tensor cores of compute capabilities 8.0 to 8.9. (From 9.0 on
// the instruction is emulated, seven times as many instructions: those devices multiply int4 codes as int8.)
//
// Weight layout. A slab is 64 columns; row tile r (16 rows) of unit and slab is 16 bytes a lane (4g + t): word h + 2c
// holds row 8h + g, columns 16t + 8c + 0..7, signed (code - mid), lowest nibble first: the left operand of mma.m16n8k64
// with its columns renamed. Memory order: unit, slab, r, lane. Activations: signed nibbles, rows of whole slabs. Scales
// (units, G, 8, 4) as in problem.h; groups are whole slabs.
//
// Tile. A block owns 4 units, one a warp, times 64 tokens; weights and activations come through shared memory in a ring
// of two chunks of 256 columns. A token's chunk is 128 bytes, its 16-byte pieces exchanged within fours of tokens
// (piece ^ 2 * (token % 4)), so that reading a fragment is free of bank conflicts. Sums of a group are exact int32.
// What limits it: the tensor core's rate, and loads from shared memory (one per product of 16 x 8 x 64).

#include "launch.h"
#include "ptx.cuh"

namespace omniq {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kLanes;
constexpr int kTiles = 8;   // of 8 tokens
constexpr int kSlab = 64;   // columns
constexpr int kSlabs = 4;   // a chunk
constexpr int kPieces = 8;  // 16-byte pieces of a token's chunk
constexpr int kTokenStep = kThreads / kPieces;

struct Stage {
    uint4 weights[kWarps][kSlabs][2][kLanes];
    uint4 tokens[8 * kTiles][kPieces];
};

// What a thread copies: its lane of its warp's weights, and one piece of every 16th token.
struct Source {
    const uint4* weights;
    const uint4* tokens;
    int slabs;   // of a row; none where the warp has no rows
    int pieces;  // of a token, from this thread's on
    int rows;    // tokens, from this thread's on
};

// Starts the copy of one chunk; what does not exist becomes zeros.
__device__ __forceinline__ void fetch(Stage& stage, const Source& from, int64_t stride, int chunk) {
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, token = threadIdx.x / kPieces,
              piece = threadIdx.x % kPieces;
    const uint32_t weights_to = static_cast<uint32_t>(__cvta_generic_to_shared(&stage.weights[warp][0][0][lane]));
    const uint32_t tokens_to =
        static_cast<uint32_t>(__cvta_generic_to_shared(&stage.tokens[token][piece ^ (token % 4) << 1]));
#pragma unroll
    for (int i = 0; i < 2 * kSlabs; ++i) {
        const bool there = chunk * kSlabs + i / 2 < from.slabs;
        copy_async(weights_to + i * kLanes * 16,
                   there ? from.weights + (chunk * 2 * kSlabs + i) * kLanes : from.weights, there);
    }
#pragma unroll
    for (int i = 0; i < 8 * kTiles / kTokenStep; ++i) {
        const bool there = kTokenStep * i < from.rows && chunk * kPieces < from.pieces;
        copy_async(tokens_to + i * kTokenStep * kPieces * 16,
                   there ? from.tokens + kTokenStep * i * stride + chunk * kPieces : from.tokens, there);
    }
    commit_copies();
}

__device__ __forceinline__ void multiply_slab(int (&part)[2][kTiles][4], const Stage& stage, int warp, int s,
                                              int lane) {
    const int g = lane / 4, t = lane % 4;
    const uint4 a0 = stage.weights[warp][s][0][lane], a1 = stage.weights[warp][s][1][lane];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
        // 8 bytes: half t % 2 of piece 2s + t / 2.
        const uint4* piece = &stage.tokens[8 * n + g][(2 * s + t / 2) ^ (g % 4) << 1];
        const uint2 b = reinterpret_cast<const uint2*>(piece)[t % 2];
        multiply_codes(part[0][n], a0, b);
        multiply_codes(part[1][n], a1, b);
    }
}

__device__ __forceinline__ void add_group(float (&total)[2][kTiles][4], int (&part)[2][kTiles][4], const Weight& w,
                                          int64_t at) {
    float scale[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) scale[b] = float_at(w.scales, at + b, w.scale_type);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                total[r][n][c] = fmaf(static_cast<float>(part[r][n][c]), scale[2 * r + c / 2], total[r][n][c]);
                part[r][n][c] = 0;
            }
        }
    }
}

__device__ __forceinline__ void store(const float (&total)[2][kTiles][4], const CodesCall& call, int64_t unit, int g,
                                      int t) {
    const int64_t outputs = call.weight.outputs;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int64_t token = (static_cast<int64_t>(blockIdx.y) * kTiles + n) * 8 + 2 * t + e;
            if (token >= call.rows) continue;
            const float scale = call.x_scales[token], shift = call.x_shifts ? call.x_shifts[token] : 0.0f;
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const int64_t output = unit * kUnit + 8 * b + g;
                if (output >= outputs) continue;
                const float row_sum = call.x_shifts ? call.row_sums[output] : 0.0f;
                store_as(call.y, token * outputs + output, call.y_type,
                         scale * fmaf(-shift, row_sum, total[b / 2][n][2 * (b % 2) + e]));
            }
        }
    }
}

__global__ void __launch_bounds__(kThreads, 2) gemm(const __grid_constant__ CodesCall call, int group_slabs) {
    __shared__ Stage stages[2];
    const Weight& w = call.weight;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, g = lane / 4, t = lane % 4;
    const int slabs = static_cast<int>(divided_up(w.columns, kSlab)), chunks = (slabs + kSlabs - 1) / kSlabs;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
    const bool rows = unit < units(w.outputs);
    int64_t scale_at = rows ? unit * divided_up(slabs, group_slabs) * kUnit + 4 * g : 0;
    int left = group_slabs;
    float total[2][kTiles][4] = {};
    int part[2][kTiles][4] = {};
    const int64_t token = static_cast<int64_t>(blockIdx.y) * 8 * kTiles + threadIdx.x / kPieces;
    const int piece = threadIdx.x % kPieces;
    const int64_t stride = 2 * slabs;  // pieces from one token to the next
    Source from;
    from.weights = static_cast<const uint4*>(w.codes) + (rows ? unit * slabs * 2 * kLanes + lane : 0);
    from.tokens = static_cast<const uint4*>(call.x) + (token < call.rows ? token * stride + piece : 0);
    from.slabs = rows ? slabs : 0;
    from.pieces = 2 * slabs - piece;
    from.rows = token < call.rows ? static_cast<int>(call.rows - token) : 0;
    fetch(stages[0], from, stride, 0);
    for (int c = 0; c < chunks; ++c) {
        __syncthreads();  // everyone is done with the chunk before, whose place is filled next
        if (c + 1 < chunks) {
            fetch(stages[(c + 1) % 2], from, stride, c + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        // One copy of the body: the sums of a group can end after any slab.
#pragma unroll 1
        for (int s = 0; s < kSlabs && c * kSlabs + s < slabs; ++s) {
            multiply_slab(part, stages[c % 2], warp, s, lane);
            if (--left == 0 || c * kSlabs + s == slabs - 1) {
                add_group(total, part, w, scale_at);
                left = group_slabs;
                scale_at += rows ? kUnit : 0;
            }
        }
    }
    if (rows) store(total, call, unit, g, t);
}

}  // namespace

int w4a4_gemm(const CodesCall& call) {
    const Weight& w = call.weight;
    const int64_t columns = divided_up(w.columns, kSlab) * kSlab;
    int group_slabs = static_cast<int>((w.group ? w.group : columns) / kSlab);
    const dim3 grid(static_cast<unsigned>(divided_up(units(w.outputs), kWarps)),
                    static_cast<unsigned>(divided_up(call.rows, 8 * kTiles)));
    void* arguments[] = {const_cast<CodesCall*>(&call), &group_slabs};
    return launched(reinterpret_cast<const void*>(&gemm), grid, dim3(kThreads), arguments, call.device, call.stream,
                    "w4a4_gemm");
}

}  // namespace omniq
