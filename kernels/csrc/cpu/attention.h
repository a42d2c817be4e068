// Attention of a tile of sixteen queries over a cache, one query a lane, keys taken in blocks with a running maximum and
// sum (Milakov and Gimelshein, arXiv:1805.02867). Included after elementwise.h.

namespace {

constexpr int64_t kKeys = 64;   // keys and values held in float32 at a time
constexpr int kAtOnce = 8;      // keys, or value columns, multiplied side by side

// Room in floats for one tile of heads of `size`: queries, sums, keys, values, scores.
int64_t tile_room(int64_t size) { return (2 * kStrip + 2 * kKeys) * size + kKeys * kStrip; }

// rows (count) x columns (size) times lanes (size, 16) -> products (count, 16); count up to kKeys, rows behind it readable.
void score_keys(const float* keys, const float* queries, int64_t count, int64_t size, float* scores) {
    for (int64_t s = 0; s < count; s += kAtOnce) {
        Float sum[kAtOnce];
        for (Float& value : sum) value = Vector::set(0.0f);
        for (int64_t d = 0; d < size; ++d) {
            const Float query = at(queries, d * kStrip);
            for (int i = 0; i < kAtOnce; ++i) sum[i] = Vector::fma(query, Vector::set(keys[(s + i) * size + d]), sum[i]);
        }
        for (int i = 0; i < kAtOnce; ++i) put(scores, (s + i) * kStrip, sum[i]);
    }
}

// sums (size, 16) = sums * factor + weights (count, 16) times values (count, size).
void add_values(const float* values, const float* weights, int64_t count, int64_t size, Float factor, float* sums) {
    for (int64_t d = 0; d < size; d += kAtOnce) {
        Float sum[kAtOnce];
        for (int i = 0; i < kAtOnce; ++i) sum[i] = Vector::mul(at(sums, (d + i) * kStrip), factor);
        for (int64_t s = 0; s < count; ++s) {
            const Float weight = at(weights, s * kStrip);
            for (int i = 0; i < kAtOnce; ++i) sum[i] = Vector::fma(weight, Vector::set(values[s * size + d + i]), sum[i]);
        }
        for (int i = 0; i < kAtOnce; ++i) put(sums, (d + i) * kStrip, sum[i]);
    }
}

// Queries first.. (up to 16 of `length`) of one head -> rows of out, `out_stride` elements apart. Query t sees the keys
// before it and its own, which is the last for the last query.
void attend_tile(const Cache& cache, int64_t sequence, int64_t kv_head, const void* head, int64_t first, int64_t length, float scaling,
                 int64_t size, float* room, void* out, int64_t out_stride) {
    const int64_t bytes = cache.type == omniq::kFloat32 ? 4 : 2, count = length - first < kStrip ? length - first : kStrip;
    const int64_t base = sequence * cache.sequence_stride + kv_head * cache.head_stride;
    const char *all_keys = static_cast<const char*>(cache.keys) + base * bytes, *all_values = static_cast<const char*>(cache.values) + base * bytes;
    float *queries = room, *sums = queries + kStrip * size, *keys = sums + kStrip * size, *values = keys + kKeys * size, *scores = values + kKeys * size;
    for (int64_t q = 0; q < kStrip; ++q) {
        load_row(static_cast<const char*>(head) + (first + (q < count ? q : 0)) * size * bytes, cache.type, size, keys);
        for (int64_t d = 0; d < size; ++d) queries[d * kStrip + q] = keys[d] * scaling;
    }
    for (int64_t d = 0; d < size; ++d) put(sums, d * kStrip, Vector::set(0.0f));
    float lanes[kStrip];  // the last key of each query
    for (int64_t q = 0; q < kStrip; ++q) lanes[q] = static_cast<float>(cache.length - length + first + (q < count ? q : count - 1));
    const Float last = at(lanes, 0);
    const int64_t seen = cache.length - length + first + count, all_see = cache.length - length + first + 1;
    Float top = Vector::set(-1e30f), total = Vector::set(0.0f);
    for (int64_t start = 0; start < seen; start += kKeys) {
        const int64_t now = seen - start < kKeys ? seen - start : kKeys;
        for (int64_t s = 0; s < now; ++s) {
            load_row(all_keys + (start + s) * cache.row_stride * bytes, cache.type, size, keys + s * size);
            load_row(all_values + (start + s) * cache.row_stride * bytes, cache.type, size, values + s * size);
        }
        score_keys(keys, queries, now, size, scores);
        Float highest = top;
        for (int64_t s = 0; s < now; ++s) {
            Float score = at(scores, s * kStrip);
            if (start + s >= all_see) {  // some queries come before this key: for them the score falls by a lot
                const Float behind = Vector::sub(Vector::set(static_cast<float>(start + s)), last);
                score = Vector::sub(score, Vector::mul(Vector::max(behind, Vector::set(0.0f)), Vector::set(1e30f)));
                put(scores, s * kStrip, score);
            }
            highest = Vector::max(highest, score);
        }
        const Float factor = exponential(Vector::sub(top, highest));
        total = Vector::mul(total, factor);
        for (int64_t s = 0; s < now; ++s) {
            const Float weight = exponential(Vector::sub(at(scores, s * kStrip), highest));
            put(scores, s * kStrip, weight);
            total = Vector::add(total, weight);
        }
        add_values(values, scores, now, size, factor, sums);
        top = highest;
    }
    for (int64_t d = 0; d < size; ++d) put(sums, d * kStrip, Vector::div(at(sums, d * kStrip), total));
    for (int64_t q = 0; q < count; ++q) {
        for (int64_t d = 0; d < size; ++d) keys[d] = sums[d * kStrip + q];
        store_row(keys, cache.type, size, static_cast<char*>(out) + q * out_stride * bytes);
    }
}

}  // namespace
