// A decoder block in three calls: hidden states to queries, keys and values; one new token a sequence over its cache (the
// caller attends by other means where there are more); and what attention gave to the block's output. What this saves
// over calling layer by layer is not arithmetic but the way to each operation, some 30 of them a block, and reading and
// writing every intermediate result.

#include "block.h"

#include <atomic>

#include "capabilities.h"
#include "pool.h"
#include "workspace.h"

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace omniq {
namespace {

constexpr int kMaxLayers = 3;
constexpr int64_t kFewTokens = 8;     // up to here threads share the outputs of a layer, above the tokens
constexpr int64_t kTokensAtOnce = 48; // of a thread: few enough for all their rows to stay in a level-2 cache

int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t row_size(int64_t size) { return rounded_up(size + kStrip, kStrip); }

// Hands out one workspace piece by piece; counts only, while there is none.
struct Pieces {
    char* base = nullptr;
    int64_t used = 0;
    template <class T> T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(base + used);
        used += rounded_up(count * static_cast<int64_t>(sizeof(T)), 64);
        return base ? piece : nullptr;
    }
};

// Room for the digits of the widest input in the block, and for turning a row into them.
struct Digitizer {
    Rows rows;
    float* scratch;
    int64_t scratch_size;

    Digitizer(Pieces& pieces, const Block& b, int64_t tokens) {
        int64_t stride = 0, blocks = 0;
        scratch_size = 0;
        const Layer* inputs[] = {&b.q, &b.o, &b.gate, &b.down};
        for (const Layer* layer : inputs) {
            const Weight w = layer->weight();
            stride = largest(stride, digit_stride(w));
            blocks = largest(blocks, w.blocks());
            scratch_size = largest(scratch_size, row_size(w.group_padded()));
        }
        const int64_t digit_rows = tokens * b.digits;
        rows = {pieces.take<int8_t>(digit_rows * stride), pieces.take<float>(digit_rows * blocks), pieces.take<int32_t>(digit_rows * blocks),
                b.digits, stride};
        scratch = pieces.take<float>(scratch_size);
    }
};

struct Product {
    Weight weight;
    Output output;
};

struct Products {
    const Product* list;
    int count;
    const Rows& rows;
    int64_t tokens, panels, share;
};

void multiply_share(void* context, int64_t index) {
    const Products& p = *static_cast<Products*>(context);
    const int64_t first = index * p.share, last = minimum(first + p.share, p.panels);
    int64_t begin = 0;
    for (int i = 0; i < p.count; ++i) {
        const int64_t end = begin + p.list[i].weight.panels();
        const int64_t from = largest(first, begin), to = minimum(last, end);
        if (from < to) kernels().multiply(p.list[i].weight, p.rows, 0, p.tokens, from - begin, to - from, p.list[i].output);
        begin = end;
    }
}

// rows (tokens, row_size(columns)) through layers that read the same input, biases added.
void project(const Digitizer& digitizer, const float* rows, int64_t tokens, const Layer* const* layers, float* const* outputs, int count, int threads) {
    const Kernels& use = kernels();
    Product products[kMaxLayers];
    Products all{products, count, digitizer.rows, tokens, 0, 0};
    int64_t bytes = 0;
    for (int i = 0; i < count; ++i) {
        const Weight w = layers[i]->weight();
        products[i] = {w, {outputs[i], kFloat32, row_size(w.outputs)}};
        all.panels += w.panels();
        bytes += w.panels() * w.panel_bytes();
    }
    const Input input{rows, nullptr, nullptr, kFloat32, tokens, row_size(products[0].weight.columns)};
    for (int64_t t = 0; t < tokens; ++t) use.digitize(products[0].weight, input, t, t, digitizer.scratch, digitizer.rows);
    const int used = static_cast<int>(minimum(threads, 1 + bytes * tokens * digitizer.rows.planes / kThreadBytes));
    const int64_t shares = 2 * used;  // the half of a worker that has not begun falls to the others
    all.share = (all.panels + shares - 1) / shares;
    parallel(Work::kShort, used, (all.panels + all.share - 1) / all.share, multiply_share, &all);
    for (int i = 0; i < count; ++i) {
        for (int64_t t = 0; layers[i]->bias && t < tokens; ++t) {
            use.rows.add(outputs[i] + t * row_size(layers[i]->outputs), layers[i]->bias, layers[i]->outputs);
        }
    }
}

// Rows of some tokens, token t of sequence s at s * length + t.
struct Step {
    const Block& block;
    Type type;
    int64_t first, tokens, length;
    int threads;

    int64_t element() const { return type == kFloat32 ? 4 : 2; }
    // Token i of this step in rows of `size`.
    const char* row(const void* rows, int64_t i, int64_t size) const { return static_cast<const char*>(rows) + (first + i) * size * element(); }
    char* row(void* rows, int64_t i, int64_t size) const { return static_cast<char*>(rows) + (first + i) * size * element(); }
    // Head h of token i in (sequences, heads, length, head size).
    char* head(void* rows, int64_t i, int64_t h, int64_t heads) const {
        const int64_t sequence = (first + i) / length, t = (first + i) % length;
        return static_cast<char*>(rows) + ((sequence * heads + h) * length + t) * block.head_size * element();
    }
};

struct Angles {
    const void* cosines;
    const void* sines;
    int64_t rows;  // tokens x sequences, or one sequence's tokens for all of them
};

// Norms, turns and writes the heads of every token.
void write_heads(const Step& s, float* rows, const float* norm, const float* cosines, const float* sines, int64_t heads, void* out) {
    const int64_t size = s.block.head_size, stride = row_size(heads * size);
    for (int64_t i = 0; i < s.tokens; ++i) {
        for (int64_t h = 0; h < heads; ++h) {
            float* head = rows + i * stride + h * size;
            if (norm) kernels().rows.norm(head, norm, s.block.eps, size, head);
            if (cosines) kernels().rows.rotate({cosines, sines}, i, size, head);
            kernels().rows.store(head, s.type, size, s.head(out, i, h, heads));
        }
    }
}

int project_heads(const Step& s, const void* hidden, const Angles& angles, void* queries, void* keys, void* values) {
    const Block& b = s.block;
    const int64_t width = row_size(b.hidden), kv = b.kv_heads * b.head_size;
    for (Pieces pieces;;) {
        Digitizer digitizer(pieces, b, s.tokens);
        float* x = pieces.take<float>(s.tokens * width);
        float* q = pieces.take<float>(s.tokens * row_size(b.heads * b.head_size));
        float* k = pieces.take<float>(s.tokens * row_size(kv));
        float* v = pieces.take<float>(s.tokens * row_size(kv));
        float* cosines = pieces.take<float>(s.tokens * b.head_size + kStrip);
        float* sines = pieces.take<float>(s.tokens * b.head_size + kStrip);
        if (!pieces.base) {
            if (!(pieces.base = workspace(pieces.used))) return kNoMemory;
            pieces.used = 0;
            continue;
        }
        const Elementwise& rows = kernels().rows;
        for (int64_t i = 0; i < s.tokens; ++i) {
            rows.load(s.row(hidden, i, b.hidden), s.type, b.hidden, x + i * width);
            rows.norm(x + i * width, b.input_norm, b.eps, b.hidden, x + i * width);
            const int64_t angle = (s.first + i) % angles.rows * b.head_size * s.element();
            rows.load(static_cast<const char*>(angles.cosines) + angle, s.type, b.head_size, cosines + i * b.head_size);
            rows.load(static_cast<const char*>(angles.sines) + angle, s.type, b.head_size, sines + i * b.head_size);
        }
        const Layer* layers[] = {&b.q, &b.k, &b.v};
        float* outputs[] = {q, k, v};
        project(digitizer, x, s.tokens, layers, outputs, 3, s.threads);
        write_heads(s, q, b.query_norm, cosines, sines, b.heads, queries);
        write_heads(s, k, b.key_norm, cosines, sines, b.kv_heads, keys);
        write_heads(s, v, nullptr, nullptr, nullptr, b.kv_heads, values);
        return kDone;
    }
}

// Adds a sublayer's output to the residual rows, through its own norm where the architecture has one.
void add_residual(const Step& s, float* sublayer, const float* norm, float* residual) {
    const int64_t width = row_size(s.block.hidden);
    for (int64_t i = 0; i < s.tokens; ++i) {
        if (norm) kernels().rows.norm(sublayer + i * width, norm, s.block.eps, s.block.hidden, sublayer + i * width);
        kernels().rows.add(residual + i * width, sublayer + i * width, s.block.hidden);
    }
}

int finish(const Step& s, const void* hidden, const void* attended, void* out) {
    const Block& b = s.block;
    const int64_t width = row_size(b.hidden), inner = row_size(b.up.outputs), context = row_size(b.heads * b.head_size);
    for (Pieces pieces;;) {
        Digitizer digitizer(pieces, b, s.tokens);
        float* x = pieces.take<float>(s.tokens * width);
        float* y = pieces.take<float>(s.tokens * width);
        float* read = pieces.take<float>(s.tokens * context);
        float* gate = pieces.take<float>(s.tokens * inner);
        float* up = pieces.take<float>(s.tokens * inner);
        if (!pieces.base) {
            if (!(pieces.base = workspace(pieces.used))) return kNoMemory;
            pieces.used = 0;
            continue;
        }
        const Elementwise& rows = kernels().rows;
        const Layer *o = &b.o, *down = &b.down;
        for (int64_t i = 0; i < s.tokens; ++i) {
            rows.load(s.row(attended, i, b.heads * b.head_size), s.type, b.heads * b.head_size, read + i * context);
            rows.load(s.row(hidden, i, b.hidden), s.type, b.hidden, x + i * width);
        }
        project(digitizer, read, s.tokens, &o, &y, 1, s.threads);
        add_residual(s, y, b.attention_output_norm, x);
        for (int64_t i = 0; i < s.tokens; ++i) rows.norm(x + i * width, b.mlp_norm, b.eps, b.hidden, y + i * width);
        const Layer* layers[] = {&b.gate, &b.up};
        float* outputs[] = {gate, up};
        project(digitizer, y, s.tokens, layers, outputs, 2, s.threads);
        for (int64_t i = 0; i < s.tokens; ++i) rows.gate(gate + i * inner, up + i * inner, static_cast<Activation>(b.activation), b.up.outputs);
        project(digitizer, gate, s.tokens, &down, &y, 1, s.threads);
        add_residual(s, y, b.mlp_output_norm, x);
        for (int64_t i = 0; i < s.tokens; ++i) rows.store(x + i * width, s.type, b.hidden, s.row(out, i, b.hidden));
        return kDone;
    }
}

// Few tokens are one step on all threads; many are cut into steps of one thread each, which share nothing.
template <class F> int in_steps(const Step& all, F step) {
    if (all.tokens <= kFewTokens) return step(all);
    struct Cut {
        const Step& all;
        F& step;
        int64_t size;
        std::atomic<int> status;
    } cut{all, step, minimum(kTokensAtOnce, (all.tokens + all.threads - 1) / all.threads), {kDone}};
    parallel(Work::kLong, all.threads, (all.tokens + cut.size - 1) / cut.size, [](void* context, int64_t index) {
        Cut& c = *static_cast<Cut*>(context);
        const int64_t first = index * c.size;
        const int status = c.step(Step{c.all.block, c.all.type, first, minimum(c.size, c.all.tokens - first), c.all.length, 1});
        if (status != kDone) c.status = status;
    }, &cut);
    return cut.status;
}

struct Attention {
    const Block& block;
    const Cache& cache;
    const void* queries;  // (sequences, H, length, head size)
    int64_t length, tiles;
    void* out;            // (sequences, length, H * head size)
    std::atomic<int> status;
};

// One head's tile of queries, or its only query.
void attend_some(void* context, int64_t index) {
    Attention& a = *static_cast<Attention*>(context);
    const Elementwise& rows = kernels().rows;
    const int64_t size = a.block.head_size, heads = a.block.heads, bytes = a.cache.type == kFloat32 ? 4 : 2;
    const int64_t first = index % a.tiles * kStrip, head = index / a.tiles % heads, sequence = index / a.tiles / heads;
    const int64_t kv_head = head / (heads / a.block.kv_heads), scores = row_size(a.cache.length);
    const int64_t room = a.length > 1 ? rows.tile_room(size) : scores + 2 * row_size(size);
    float* memory = reinterpret_cast<float*>(workspace(room * 4));
    if (!memory) {
        a.status = kNoMemory;
        return;
    }
    const char* queries = static_cast<const char*>(a.queries) + (sequence * heads + head) * a.length * size * bytes;
    char* out = static_cast<char*>(a.out) + (((sequence * a.length + first) * heads) + head) * size * bytes;
    if (a.length > 1) return rows.attend_tile(a.cache, sequence, kv_head, queries, first, a.length, a.block.scaling, size, memory, out, heads * size);
    float *query = memory + scores, *sum = query + row_size(size);
    rows.load(queries, a.cache.type, size, query);
    rows.attend(a.cache, sequence, kv_head, query, a.block.scaling, size, memory, sum);
    rows.store(sum, a.cache.type, size, out);
}

int64_t at_least_one(int64_t value) { return value > 0 ? value : 1; }

}  // namespace
}  // namespace omniq

using omniq::Block;
using omniq::Step;
using omniq::Type;

// hidden (sequences, length, D) and angles (sequences or 1, length, head size) of `type` -> queries (sequences, H, length,
// head size), keys and values (sequences, kv heads, length, head size) of `type`.
OMNIQ_EXPORT int omniq_cpu_block_project(const Block* block, const void* hidden, int type, int64_t sequences, int64_t length, const void* cosines,
                                         const void* sines, int64_t angle_rows, void* queries, void* keys, void* values, int threads) {
    const Step all{*block, static_cast<Type>(type), 0, sequences * length, length, threads};
    return omniq::in_steps(all, [&](const Step& s) { return omniq::project_heads(s, hidden, {cosines, sines, angle_rows}, queries, keys, values); });
}

// queries (sequences, H, length, head size) over keys and values (sequences, kv heads, keys, head size), the last dimension
// dense, the others with these strides; the last query sees all of them, each one before it one less -> out (sequences,
// length, H * head size); all of `type`.
OMNIQ_EXPORT int omniq_cpu_block_attend(const Block* block, const void* queries, int type, int64_t sequences, int64_t length, const void* keys,
                                        const void* values, int64_t known, int64_t sequence_stride, int64_t head_stride, int64_t row_stride,
                                        void* out, int threads) {
    const omniq::Cache cache{keys, values, static_cast<Type>(type), known, sequence_stride, head_stride, row_stride};
    const int64_t tiles = length > 1 ? (length + omniq::kStrip - 1) / omniq::kStrip : 1;
    omniq::Attention attention{*block, cache, queries, length, tiles, out, {omniq::kDone}};
    const int64_t bytes = 4 * sequences * length * block->kv_heads * block->head_size * known;
    const int used = static_cast<int>(omniq::minimum(threads, omniq::at_least_one(bytes / omniq::kThreadBytes)));
    const omniq::Work work = length > 1 ? omniq::Work::kLong : omniq::Work::kShort;
    omniq::parallel(work, used, sequences * block->heads * tiles, omniq::attend_some, &attention);
    return attention.status;
}

// The same hidden, and attended (sequences, length, H * head size) -> out (sequences, length, D); all of `type`.
OMNIQ_EXPORT int omniq_cpu_block_finish(const Block* block, const void* hidden, int type, int64_t sequences, int64_t length, const void* attended,
                                        void* out, int threads) {
    const Step all{*block, static_cast<Type>(type), 0, sequences * length, length, threads};
    return omniq::in_steps(all, [&](const Step& s) { return omniq::finish(s, hidden, attended, out); });
}
