// More than 8 tokens, weights of 2, 3 or 4 bits, activations in float16 or bfloat16: the matrix-matrix kernel.
//
// Tile. A block owns 4 units (128 rows), one a warp, times 16, 32 or 64 tokens, and one of `splits` parts of K. Weights
// are the left operand of the tensor core, from memory to registers as in wna16_decode.cu; activations, the right
// operand, come through shared memory in a ring of three chunks of 128 columns. A token's chunk is 256 bytes, its
// 16-byte pieces exchanged within pairs of tokens (piece ^ 4 in odd tokens), so that reading a fragment is free of bank
// conflicts. Parts of K are summed by a second kernel in order: the result is the same in every run.
//
// What limits it: up to about 32 tokens, memory (two or more blocks a multiprocessor, one chunk ahead: 16 KB of 4-bit
// weights in flight each); beyond 64, the tensor core's rate for products from registers, and unpacking once per 64
// tokens.

#include "wna16.cuh"

namespace omniq {
namespace {

constexpr int kWarps = 4;
constexpr int kSteps = 4;  // a chunk is 128 columns
constexpr int kStages = 3;
// Blocks that a multiprocessor holds: as few as keep everything in registers.
constexpr int blocks_held(int tiles, bool fine) { return tiles > 2 || fine ? 2 : 4; }
constexpr int kPieces = kSteps * 4;  // 16-byte pieces of a token's chunk
static_assert(kWarps * kLanes == 8 * kPieces, "a thread copies one piece of every eighth token");

// A lane's scales and zero points of one group.
struct Group {
    Scales scales;
    uint32_t zeros;

    __device__ __forceinline__ void load(const Weight& w, int64_t first, int step, uint32_t reciprocal) {
        const int64_t at = first + static_cast<int64_t>(group_of(step, reciprocal)) * kUnit;
        scales.load(w, at);
        zeros = zeros_at(w, at);
    }
};

// What a lane needs to know of where it is.
struct Place {
    const uint4* codes;
    const uint2* high;
    int g, t;
    int end;  // steps stored; none where the warp has no rows
    int64_t first_scale;
    uint32_t reciprocal;
    uint64_t policy;
};

template <int kTiles>
struct Ring {
    uint4 pieces[kStages][8 * kTiles][kPieces];

    // Starts the copy of one chunk of the block's tokens; what is outside of x becomes zeros. A thread copies the same
    // piece of every eighth token; `from` is that of its first, `rows` and `columns` count from there.
    __device__ __forceinline__ void fetch(const uint16_t* from, int64_t stride, int rows, int columns, int chunk) {
        const int token = threadIdx.x / kPieces, piece = threadIdx.x % kPieces, column = chunk * kPieces * 8;
        const uint32_t to =
            static_cast<uint32_t>(__cvta_generic_to_shared(&pieces[chunk % kStages][token][piece ^ (token & 1) << 2]));
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            const bool there = 8 * i < rows && column < columns;
            copy_async(to + i * 8 * kPieces * 16, there ? from + 8 * i * stride + column : from, there);
        }
    }
    __device__ __forceinline__ uint4 fragment(int chunk, int tile, int step, int g, int t) const {
        return pieces[chunk % kStages][8 * tile + g][(4 * step + t) ^ (g & 1) << 2];
    }
};

template <bool kBrain, int kTiles>
__device__ __forceinline__ void multiply_step(float (&part)[2][kTiles][4], const uint32_t (&a)[2][8],
                                              const Ring<kTiles>& ring, int chunk, int s, const Place& place) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
        const uint4 x = ring.fragment(chunk, n, s, place.g, place.t);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            multiply_add<kBrain>(part[r][n], a[r], x.x, x.y);
            multiply_add<kBrain>(part[r][n], a[r] + 4, x.z, x.w);
        }
    }
}

template <int kTiles>
__device__ __forceinline__ void store(const float (&total)[2][kTiles][4], const Call& call, int64_t unit,
                                      int64_t first_token, int g, int t) {
    const int64_t outputs = call.weight.outputs, part = static_cast<int64_t>(blockIdx.z) * call.rows * outputs;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const int64_t output = unit * kUnit + 16 * r + 8 * (c / 2) + g,
                              token = first_token + 8 * n + 2 * t + c % 2;
                if (output >= outputs || token >= call.rows) continue;
                const int64_t at = token * outputs + output;
                if (call.splits > 1) {
                    call.partial[part + at] = total[r][n][c];
                } else {
                    store_as(call.y, at, call.y_type, total[r][n][c]);
                }
            }
        }
    }
}

// One chunk. Steps that are not stored multiply whatever the registers hold, which is finite, with zeros. Codes of the
// next chunk take the place of those just used, up to step `end`.
template <bool kFine, int kBits, bool kBrain, int kTiles>
__device__ __forceinline__ void multiply_chunk(float (&total)[2][kTiles][4], Codes<kBits, kSteps>& codes, Group& next,
                                               const Ring<kTiles>& ring, const Weight& w, const Place& place, int chunk,
                                               int end) {
    constexpr int kCovered = Codes<kBits, kSteps>::kCovered;
    const uint4* codes_at = place.codes + (chunk + 1) * kSteps * code_stride(kBits);
    const uint2* high_at = place.high + (chunk + 1) * kSteps * kHighStride;
    float part[2][kTiles][4] = {};
    Group group;
    Offsets<kBits, kBrain> z;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
        const int step = chunk * kSteps + s;
        if (kFine || s == 0) {
            group = next;
            z.set(group.zeros);
            const int following = step + (kFine ? 1 : kSteps);
            if (following < place.end) next.load(w, place.first_scale, following, place.reciprocal);
        }
        uint32_t a[2][8];
        operands<kBits, kBrain, kSteps>(codes, z, group.zeros, s, a);
        if (s % kCovered == kCovered - 1 && step + 1 - kCovered + kSteps < end)
            codes.load(s / kCovered, codes_at, high_at, place.policy);
        multiply_step<kBrain>(part, a, ring, chunk, s, place);
        if (kFine) add_scaled<kTiles>(total, part, group.scales, w.scale_type);
    }
    if (!kFine) add_scaled<kTiles>(total, part, group.scales, w.scale_type);
}

template <int kBits, bool kBrain, int kTiles, bool kFine>
__global__ void __launch_bounds__(kWarps* kLanes, blocks_held(kTiles, kFine))
    gemm(const __grid_constant__ Call call, uint32_t reciprocal) {
    __shared__ Ring<kTiles> ring;
    const Weight& w = call.weight;
    const int number = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp,
                  first_token = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
    const int steps = stored_steps(w), chunks = (steps + kSteps - 1) / kSteps;
    const int first = static_cast<int>(static_cast<int64_t>(chunks) * blockIdx.z / call.splits);
    const int last = static_cast<int>(static_cast<int64_t>(chunks) * (blockIdx.z + 1) / call.splits);
    Place place;
    place.g = number / 4;
    place.t = number % 4;
    place.end = unit < units(w.outputs) ? steps : 0;  // a warp without rows copies activations only
    place.first_scale = unit * groups(w) * kUnit + 4 * place.g;
    place.reciprocal = reciprocal;
    place.policy = evict_first();
    place.codes = static_cast<const uint4*>(w.codes) + unit * steps * code_stride(kBits) + number;
    place.high = static_cast<const uint2*>(w.high) + unit * steps * kHighStride + number;
    const int end = last * kSteps < place.end ? last * kSteps : place.end;  // of this part of K

    float total[2][kTiles][4] = {};
    Codes<kBits, kSteps> codes;
    Group group;
    codes.load_all(end - first * kSteps, place.codes + first * kSteps * code_stride(kBits),
                   place.high + first * kSteps * kHighStride, place.policy);
    const int64_t own_token = first_token + threadIdx.x / kPieces;
    const int piece = 8 * (threadIdx.x % kPieces),
              rows = own_token < call.rows ? static_cast<int>(call.rows - own_token) : 0;
    const uint16_t* x = static_cast<const uint16_t*>(call.x) + (rows ? own_token * call.stride + piece : 0);
    const auto fetch_x = [&](int chunk) {
        if (chunk < last) ring.fetch(x, call.stride, rows, static_cast<int>(w.columns) - piece, chunk);
        commit_copies();
    };
    if (place.end) group.load(w, place.first_scale, first * kSteps, reciprocal);
    fetch_x(first);
    fetch_x(first + 1);
    for (int c = first; c < last; ++c) {
        wait_copies<1>();
        __syncthreads();  // everyone sees chunk c, and is done with chunk c - 1, whose place is filled next
        fetch_x(c + 2);
        multiply_chunk<kFine, kBits, kBrain>(total, codes, group, ring, w, place, c, end);
    }
    store<kTiles>(total, call, unit, first_token, place.g, place.t);
}

// Adds the parts of K in order.
__global__ void __launch_bounds__(256) add_parts(const __grid_constant__ Call call) {
    const int64_t size = call.rows * call.weight.outputs;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        float sum = 0.0f;
        for (int part = 0; part < call.splits; ++part) sum += call.partial[part * size + i];
        store_as(call.y, i, call.y_type, sum);
    }
}

bool is_fine(const Weight& w) { return w.group % (kSteps * kStep) != 0; }

// Tokens of a block, in eights: with fine groups the scales take the registers that more would need.
int tiles_for(const Weight& w, int64_t rows) { return rows <= 16 ? 2 : is_fine(w) ? 4 : 8; }

}  // namespace

// Parts of K that fill the device: blocks for every multiprocessor, of at least four chunks each.
int gemm_splits(const Weight& w, int64_t rows, int multiprocessors) {
    const int tiles = tiles_for(w, rows);
    const int64_t blocks = divided_up(units(w.outputs), kWarps) * divided_up(rows, 8 * tiles);
    const int64_t room = static_cast<int64_t>(multiprocessors) * blocks_held(tiles, is_fine(w));
    const int64_t most = divided_up(w.columns, kSteps * kStep) / 4, wanted = room / blocks;
    const int64_t splits = wanted < most ? wanted : most;
    return splits < 1 ? 1 : splits > 16 ? 16 : static_cast<int>(splits);
}

int wna16_gemm(const Call& call) {
    const Weight& w = call.weight;
    const int tiles = tiles_for(w, call.rows);
    uint32_t reciprocal = group_reciprocal(w.group);
    const dim3 grid(static_cast<unsigned>(divided_up(units(w.outputs), kWarps)),
                    static_cast<unsigned>(divided_up(call.rows, 8 * tiles)), static_cast<unsigned>(call.splits));
    void* arguments[] = {const_cast<Call*>(&call), &reciprocal};
    const bool fine = is_fine(w);
    const int status = with_formats(w.bits, call.x_type == kBFloat16, [&](auto bits, auto brain) {
        // 8-bit weights take too many registers here; see kernels/cuda_wna16.py.
        const void* kernel = nullptr;
        if constexpr (bits != 8) {
            if (tiles == 2) {
                kernel = fine ? reinterpret_cast<const void*>(&gemm<bits, brain, 2, true>)
                              : reinterpret_cast<const void*>(&gemm<bits, brain, 2, false>);
            } else {
                kernel = fine ? reinterpret_cast<const void*>(&gemm<bits, brain, 4, true>)
                              : reinterpret_cast<const void*>(&gemm<bits, brain, 8, false>);
            }
        }
        return launched(kernel, grid, dim3(kWarps * kLanes), arguments, call.device, call.stream, "wna16_gemm");
    });
    if (status != kDone || call.splits == 1) return status;
    const int64_t blocks = divided_up(call.rows * w.outputs, 256),
                  most = static_cast<int64_t>(call.multiprocessors) * 8;
    return launched(reinterpret_cast<const void*>(&add_parts),
                    dim3(static_cast<unsigned>(blocks < most ? blocks : most)), dim3(256), arguments, call.device,
                    call.stream, "wna16_add_parts");
}

}  // namespace omniq
