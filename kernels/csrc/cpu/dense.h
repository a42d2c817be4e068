// The product of a few rows with an unquantised weight, which is read once: an output head in 16 bits. Included after
// elementwise.h.

namespace {

constexpr int kOutputsAtOnce = 4;

// row (columns) float32 times outputs first.. of weight (outputs, columns) -> out[first..].
void dense_row(const void* weight, omniq::Type type, const float* row, int64_t columns, int64_t first, int64_t count, float* out) {
    const int64_t bytes = type == omniq::kFloat32 ? 4 : 2, whole = columns / kStrip * kStrip;
    for (int64_t n = first; n < first + count; n += kOutputsAtOnce) {
        const char* lines[kOutputsAtOnce];
        Float sum[kOutputsAtOnce];
        for (int i = 0; i < kOutputsAtOnce; ++i) {
            const int64_t output = n + i < first + count ? n + i : first + count - 1;
            lines[i] = static_cast<const char*>(weight) + output * columns * bytes;
            sum[i] = Vector::set(0.0f);
        }
        for (int64_t k = 0; k < whole; k += kStrip) {
            const Float x = at(row, k);
            for (int i = 0; i < kOutputsAtOnce; ++i) {
                Vector::prefetch(reinterpret_cast<const uint8_t*>(lines[i]) + k * bytes + kAhead);
                sum[i] = Vector::fma(Vector::load(lines[i], k, type), x, sum[i]);
            }
        }
        for (int i = 0; i < kOutputsAtOnce && n + i < first + count; ++i) {
            float total = Vector::total(sum[i]);
            if (whole < columns) {
                char last[kStrip * sizeof(float)] = {};
                float values[kStrip];
                __builtin_memcpy(last, lines[i] + whole * bytes, static_cast<size_t>((columns - whole) * bytes));
                Vector::store(values, 0, omniq::kFloat32, Vector::load(last, 0, type));
                for (int64_t k = whole; k < columns; ++k) total += values[k - whole] * row[k];
            }
            out[n + i] = total;
        }
    }
}

}  // namespace
