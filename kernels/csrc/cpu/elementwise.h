// What a decoder block does between its linear layers, on rows of float32: norms, rotary embedding, attention of one
// new token over a cache, gated activation. Written over `Vector` as linear.h is, and included after it. Rows are held in
// memory up to a multiple of 16 floats; what lies behind their end is never read as a value.

#include <cmath>

namespace {

using omniq::Cache;
using omniq::Rotary;

// f(i, count) for every 16 values of a row, count < 16 at its end.
template <class F> inline __attribute__((always_inline)) void each_strip(int64_t size, F f) {
    for (int64_t i = 0; i < size; i += kStrip) f(i);
}

Float at(const float* row, int64_t i) { return Vector::load(row, i, omniq::kFloat32); }
void put(float* row, int64_t i, Float v) { Vector::store(row, i, omniq::kFloat32, v); }

// Sum of a row whose size need not be a multiple of 16: the rest is added one by one.
template <class F> float row_total(int64_t size, F value) {
    Float sum = Vector::set(0.0f);
    int64_t i = 0;
    for (; i + kStrip <= size; i += kStrip) sum = Vector::add(sum, value(i));
    float total = Vector::total(sum);
    if (i < size) {
        float last[kStrip];
        Vector::store(last, 0, omniq::kFloat32, value(i));
        for (int64_t n = 0; n < size - i; ++n) total += last[n];
    }
    return total;
}

// exp(x) to about 1e-7 of its value; 0 below -87, where float32 ends.
Float exponential(Float x) {
    x = Vector::max(Vector::set(-87.0f), x);  // in this order a NaN stays one
    const Int power = Vector::rounded(Vector::mul(x, Vector::set(1.44269504f)));
    const Float n = Vector::to_float(power);
    Float r = Vector::sub(x, Vector::mul(n, Vector::set(0.693359375f)));
    r = Vector::add(r, Vector::mul(n, Vector::set(2.12194440e-4f)));
    constexpr float kTerms[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f};
    Float p = Vector::set(1.9875691500e-4f);
    for (float term : kTerms) p = Vector::add(Vector::mul(p, r), Vector::set(term));
    return Vector::times_power_of_two(p, power);
}

void load_row(const void* row, omniq::Type type, int64_t size, float* out) {
    const int64_t bytes = type == omniq::kFloat32 ? 4 : 2;
    int64_t i = 0;
    for (; i + kStrip <= size; i += kStrip) put(out, i, Vector::load(row, i, type));
    if (i < size) {
        char last[kStrip * sizeof(float)] = {};
        __builtin_memcpy(last, static_cast<const char*>(row) + i * bytes, static_cast<size_t>((size - i) * bytes));
        put(out, i, Vector::load(last, 0, type));
    }
}

void store_row(const float* row, omniq::Type type, int64_t size, void* out) {
    const int64_t bytes = type == omniq::kFloat32 ? 4 : 2;
    int64_t i = 0;
    for (; i + kStrip <= size; i += kStrip) Vector::store(out, i, type, at(row, i));
    if (i < size) {
        char last[kStrip * sizeof(float)];
        Vector::store(last, 0, type, at(row, i));
        __builtin_memcpy(static_cast<char*>(out) + i * bytes, last, static_cast<size_t>((size - i) * bytes));
    }
}

void add_row(float* row, const float* other, int64_t size) {
    each_strip(size, [&](int64_t i) { put(row, i, Vector::add(at(row, i), at(other, i))); });
}

// x / sqrt(mean(x * x) + eps) * weight
void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
    const float squares = row_total(size, [&](int64_t i) { return Vector::mul(at(x, i), at(x, i)); });
    const Float factor = Vector::set(1.0f / std::sqrt(squares / static_cast<float>(size) + eps));
    each_strip(size, [&](int64_t i) { put(out, i, Vector::mul(Vector::mul(at(x, i), factor), at(weight, i))); });
}

// Pairs (d, d + size / 2) of one head turned by the angles of its token.
void rotate(const Rotary& rotary, int64_t token, int64_t size, float* head) {
    const int64_t half = size / 2;
    const float *cosines = rotary.cosines + token * size, *sines = rotary.sines + token * size;
    for (int64_t d = 0; d < half; d += kStrip) {
        const Float a = at(head, d), b = at(head, d + half);
        put(head, d, Vector::sub(Vector::mul(a, at(cosines, d)), Vector::mul(b, at(sines, d))));
        put(head, d + half, Vector::add(Vector::mul(b, at(cosines, d + half)), Vector::mul(a, at(sines, d + half))));
    }
}

// One new query (size) over a cache of `length` keys and values -> out (size). scores: `length` floats and 16 more.
void attend(const Cache& cache, int64_t sequence, int64_t kv_head, const float* query, float scaling, int64_t size, float* scores, float* out) {
    const int64_t bytes = cache.type == omniq::kFloat32 ? 4 : 2;
    const char* keys = static_cast<const char*>(cache.keys) + (sequence * cache.sequence_stride + kv_head * cache.head_stride) * bytes;
    const char* values = static_cast<const char*>(cache.values) + (sequence * cache.sequence_stride + kv_head * cache.head_stride) * bytes;
    float top = -kInfinity;
    for (int64_t s = 0; s < cache.length; ++s) {
        Float sum = Vector::set(0.0f);
        each_strip(size, [&](int64_t d) {
            sum = Vector::add(sum, Vector::mul(at(query, d), Vector::load(keys + s * cache.row_stride * bytes, d, cache.type)));
        });
        scores[s] = Vector::total(sum) * scaling;
        top = scores[s] > top ? scores[s] : top;
    }
    each_strip(cache.length, [&](int64_t s) { put(scores, s, exponential(Vector::sub(at(scores, s), Vector::set(top)))); });
    const Float share = Vector::set(1.0f / row_total(cache.length, [&](int64_t s) { return at(scores, s); }));
    for (int64_t first = 0; first < size; first += 4 * kStrip) {
        const int64_t strips = size - first < 4 * kStrip ? (size - first) / kStrip : 4;
        Float sum[4] = {Vector::set(0.0f), Vector::set(0.0f), Vector::set(0.0f), Vector::set(0.0f)};
        for (int64_t s = 0; s < cache.length; ++s) {
            const Float weight = Vector::set(scores[s]);
            for (int64_t i = 0; i < strips; ++i) {
                const Float value = Vector::load(values + s * cache.row_stride * bytes, first + i * kStrip, cache.type);
                sum[i] = Vector::add(sum[i], Vector::mul(weight, value));
            }
        }
        for (int64_t i = 0; i < strips; ++i) put(out, first + i * kStrip, Vector::mul(sum[i], share));
    }
}

// act(gate) * up, where act(g) = g / (1 + exp(-t)): t = g is SiLU, t = 2 sqrt(2 / pi) (g + 0.044715 g^3) is tanh GELU.
void gate_row(float* gate, const float* up, omniq::Activation activation, int64_t size) {
    each_strip(size, [&](int64_t i) {
        const Float g = at(gate, i), one = Vector::set(1.0f);
        Float t = g;
        if (activation == omniq::kTanhGelu) {
            t = Vector::mul(Vector::mul(g, Vector::set(1.5957691f)), Vector::add(one, Vector::mul(Vector::mul(g, g), Vector::set(0.044715f))));
        }
        // Beyond 87 the exponential would leave float32; there the quotient is 0 to the last digit.
        const Float raised = exponential(Vector::sub(Vector::set(0.0f), Vector::max(Vector::set(-87.0f), t)));
        put(gate, i, Vector::mul(Vector::div(g, Vector::add(one, raised)), at(up, i)));
    });
}

}  // namespace
