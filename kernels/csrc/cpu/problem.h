// What one call computes, in plain data: shared by the C entry points and by every instruction set's kernels.
//
// Weight layout. Columns of a weight group are padded to whole chunks: 16 columns, 32 for 3-bit weights. A panel is 64
// rows of the weight (64 outputs), four strips of 16. Panels follow each other; inside one, chunks run along K, and in
// each chunk its four strips follow each other: whoever works on a whole panel reads memory in one straight line.
// A line is 64 bytes: byte 4 * n + j belongs to output n of the strip, and a field of it to column 4 * t + j of the chunk:
//
//   4 bits: 2 lines a chunk; step t is the low (t even) or high (t odd) nibble of line t / 2
//   2 bits: 1 line a chunk; step t is bits 2t, 2t + 1
//   3 bits: 3 lines a chunk; the low two bits of step t are bits 2(t % 4).. of line t / 4, the top bit is bit t of line 2
//   8 bits: 4 lines a chunk; step t is line t
//
// So one load feeds a four-term dot product (vpdpbusd) of 16 outputs per step, with unsigned codes.
//
// Activations are integers too. Row m becomes `planes` rows of int8: x = scale * (p0 * 256**(planes - 1) + ... + p_last),
// one scale per block of at most 128 columns. One plane is the int8 path; three and four serve as floating point of 16 and 32 bits.

#pragma once

#include <cstdint>

namespace omniq {

enum Type : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

constexpr int kStrip = 16;         // outputs a strip
constexpr int kStrips = 4;         // strips a panel
constexpr int kPanel = kStrip * kStrips;
constexpr int kLine = 64;          // bytes a line
constexpr int64_t kBlock = 128;    // columns that share an activation scale, at most
constexpr int kMaxPlanes = 4;

constexpr int chunk_columns(int bits) { return bits == 3 ? 32 : 16; }
constexpr int chunk_lines(int bits) { return bits == 2 ? 1 : bits == 3 ? 3 : bits == 4 ? 2 : 4; }

struct Weight {
    const uint8_t* lines;   // (panels, groups, chunks, strips, lines a chunk, 64)
    const void* scales;     // (panels, groups, 64) of scale_type
    const uint8_t* zeros;   // (panels, groups, 64), or null: every zero point is `mid`
    Type scale_type;
    int bits;               // of a stored field: 2, 3, 4 or 8
    int mid;
    int64_t outputs, columns, group;  // N, K, columns a group

    int64_t groups() const { return columns / group; }
    int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
    int64_t group_chunks() const { return (group + chunk_columns(bits) - 1) / chunk_columns(bits); }
    int64_t group_padded() const { return group_chunks() * chunk_columns(bits); }
    int64_t group_blocks() const { return (group_padded() + kBlock - 1) / kBlock; }
    int64_t padded() const { return groups() * group_padded(); }
    int64_t blocks() const { return groups() * group_blocks(); }
    int64_t panel_bytes() const { return groups() * group_chunks() * chunk_lines(bits) * kStrips * kLine; }
};

// Rows as integers: plane p of the row in slot m is digit row m * planes + p.
struct Rows {
    int8_t* digits;   // (slots * planes, stride)
    float* scales;    // (slots * planes, blocks)
    int32_t* sums;    // (slots * planes, blocks): of the digits of a block
    int planes;
    int64_t stride;   // bytes from one digit row to the next
};

// Floating-point rows, or integers with one scale a row where `codes` is not null.
struct Input {
    const void* x;          // (M, K) of `type`, rows `stride` elements apart
    const int16_t* codes;   // (M, K)
    const float* code_scales;  // (M)
    Type type;
    int64_t rows, stride;
};

struct Output {
    void* y;        // (M, N) of `type`, rows `stride` elements apart
    Type type;
    int64_t stride;
};

// Angles of every token of a step, (tokens, head size).
struct Rotary {
    const float* cosines;
    const float* sines;
};

// Keys and values (sequences, kv heads, length, head size), the last dimension dense; strides in elements.
struct Cache {
    const void* keys;
    const void* values;
    Type type;
    int64_t length, sequence_stride, head_stride, row_stride;
};

enum Activation : int { kSilu = 0, kTanhGelu = 1 };

// What a decoder block does between its linear layers; see elementwise.h, attention.h and dense.h.
struct Elementwise {
    void (*load)(const void* row, Type, int64_t size, float* out);
    void (*store)(const float* row, Type, int64_t size, void* out);
    void (*add)(float* row, const float* other, int64_t size);
    void (*norm)(const float* row, const float* weight, float eps, int64_t size, float* out);
    void (*rotate)(const Rotary&, int64_t token, int64_t size, float* head);
    void (*attend)(const Cache&, int64_t sequence, int64_t kv_head, const float* query, float scaling, int64_t size,
                   float* scores, float* out);
    void (*attend_tile)(const Cache&, int64_t sequence, int64_t kv_head, const void* head, int64_t first, int64_t length,
                        float scaling, int64_t size, float* room, void* out, int64_t out_stride);
    int64_t (*tile_room)(int64_t size);
    void (*dense)(const void* weight, Type, const float* row, int64_t columns, int64_t first, int64_t count, float* out);
    void (*gate)(float* gate, const float* up, Activation, int64_t size);
};

// One instruction set's kernels.
struct Kernels {
    // Input row `row` -> the digit rows of slot `slot`; scratch holds one padded group and 16 floats.
    void (*digitize)(const Weight&, const Input&, int64_t row, int64_t slot, float* scratch, const Rows&);
    // Slots 0 to `rows` - 1 times some panels -> output rows from `first_row` on.
    void (*multiply)(const Weight&, const Rows&, int64_t first_row, int64_t rows, int64_t first_panel, int64_t panels,
                     const Output&);
    // One panel -> its rows (up to 64, K) of a type, dense; see expand.h.
    void (*expand)(const Weight&, int64_t panel, Type, void* out);
    Elementwise rows;
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512Vnni;
#endif

}  // namespace omniq
