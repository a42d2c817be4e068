// A decoder block as the C entry points of block.cpp take it: laid out field by field as kernels/cpu_block.py fills it.

#pragma once

#include "problem.h"

namespace omniq {

struct Layer {
    const uint8_t* lines;
    const void* scales;
    const uint8_t* zeros;  // null: symmetric
    const float* bias;     // (N), or null
    int64_t outputs, columns, group;
    int32_t scale_type, bits, mid, unused;

    Weight weight() const { return {lines, scales, zeros, static_cast<Type>(scale_type), bits, mid, outputs, columns, group}; }
};

// x + out(attention(q, k, v of norm(x))), then x + down(act(gate(norm(x))) * up(norm(x))). Norm weights are float32; a null
// one is a norm that the architecture does not have.
struct Block {
    Layer q, k, v, o, gate, up, down;
    const float *input_norm, *query_norm, *key_norm, *attention_output_norm, *mlp_norm, *mlp_output_norm;
    int64_t hidden, heads, kv_heads, head_size;
    float eps, scaling;
    int32_t activation, digits;
};

}  // namespace omniq
