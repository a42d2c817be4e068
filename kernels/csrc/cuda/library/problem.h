// What one call computes, in plain data, and how a weight lies in memory: shared by the C entry points, the kernels
// and, field by field, by kernels/cuda_library.py.
//
// Weight layout (all but W4A4). A unit is 32 rows of the weight, a step 32 columns; in both, the warp's lane 4g + t
// owns rows 16r + 8h + g and columns 8t + 4i + 2c + e, with r, h, i, c, e in {0, 1}. That is the left operand of
// mma.m16n8k16 with the columns of the tensor core's tile renamed: row tile r, product i, register h + 2c, half e. So a
// lane's codes go from memory to the tensor core without touching shared memory, and its activations are 8 neighbours.
//
//   4 bits: 16 bytes a lane and step; word 2r + i, code (h, c, e) at bit 4 * (4e + 2c + h)
//   2 bits: 16 bytes a lane and two steps; word 2s + r (s: which of the two), bit 2 * (8e + 4i + 2c + h)
//   3 bits: the low two bits as 2 bits; the top bits apart, 8 bytes a lane and two steps: word r, bit
//           16e + 2 * (4i + 2c + h) + s
//   8 bits: 2 * 16 bytes a lane and step, one for each r; word 2i + c, code (h, e) at byte 2h + e
//
// Memory order: unit, step (or pair of steps), for 8 bits r, lane: every load of a warp is 512 bytes in a row.
// Scales and zero points: (units, G, 8, 4), element 4g + 2r + h of a unit's group: one load gives a lane all of its
// own. Rows beyond N and columns beyond K hold code 0, scale 0; activations beyond K are taken as 0.

#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define OMNIQ_BOTH __host__ __device__ __forceinline__
#else
#define OMNIQ_BOTH inline
#endif

namespace omniq {

enum Type : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

constexpr int kUnit = 32;  // rows a warp owns
constexpr int kStep = 32;  // columns of one round of tensor-core products
constexpr int kLanes = 32;
constexpr int kMaxSteps = 1 << 16;

struct Weight {
    const void* codes;
    const void* high;  // top bits of 3-bit codes, else null
    const void* scales;
    const void* zeros;         // uint8, or null: every zero point is `mid`
    int64_t outputs, columns;  // N, K
    int64_t group;             // columns a group, a multiple of kStep; 0: one group a row
    int bits;                  // of a stored field: 2, 3, 4 or 8
    int mid;
    Type scale_type;
};

struct Call {
    Weight weight;
    const void* x;   // (M, K), rows `stride` elements apart, 16-byte aligned, K and stride multiples of 8
    void* y;         // (M, N) contiguous
    float* partial;  // (splits, M, N) when splits > 1
    void* stream;
    int64_t rows, stride;
    int splits;  // parts that K is cut into, each summed on its own
    int multiprocessors;
    int device;
    Type x_type, y_type;
};

// W4A4: integers on both sides. y = x_scale * (sum of products - x_shift * row_sum), see w4a4_gemm.cu for the layout.
struct CodesCall {
    Weight weight;
    const void* x;          // (M, padded K / 2) signed nibbles
    const float* x_scales;  // (M)
    const float* x_shifts;  // (M) zero points, or null: symmetric
    const float* row_sums;  // (N) sums of the weight's rows, used with x_shifts
    void* y;                // (M, N)
    void* stream;
    int64_t rows;
    int device;
    Type y_type;
};

OMNIQ_BOTH int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
OMNIQ_BOTH int64_t units(int64_t outputs) { return divided_up(outputs, kUnit); }
OMNIQ_BOTH int load_steps(int bits) { return bits == 2 || bits == 3 ? 2 : 1; }  // steps that one load of a lane covers
OMNIQ_BOTH int step_words(int bits) { return bits == 8 ? 8 : bits == 4 ? 4 : 2; }

// Steps that are stored: K rounded up to what one load covers.
OMNIQ_BOTH int stored_steps(const Weight& w) {
    const int covered = load_steps(w.bits);
    return static_cast<int>(divided_up(w.columns, static_cast<int64_t>(kStep) * covered)) * covered;
}
OMNIQ_BOTH int64_t groups(const Weight& w) {
    return w.group ? divided_up(static_cast<int64_t>(stored_steps(w)) * kStep, w.group) : 1;
}

// step / steps_per_group without a division: the upper half of step * reciprocal, exact below kMaxSteps.
OMNIQ_BOTH uint32_t group_reciprocal(int64_t group) {
    const uint64_t steps = group ? static_cast<uint64_t>(group) / kStep : kMaxSteps;
    return steps == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + steps - 1) / steps);
}
OMNIQ_BOTH int group_of(int step, uint32_t reciprocal) {
    return reciprocal ? static_cast<int>((static_cast<uint64_t>(static_cast<uint32_t>(step)) * reciprocal) >> 32)
                      : step;
}

}  // namespace omniq
