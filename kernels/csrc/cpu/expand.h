// A quantised weight as numbers again, for products of so many rows that a floating-point one is faster. Included after
// linear.h.

namespace {

// Rows of the weight that one strip holds, into `out` (rows, columns) of `type`.
template <int bits> void expand_strip(const omniq::Weight& w, int64_t panel, int strip, omniq::Type type, char* out) {
    constexpr int kSteps = chunk_columns(bits) / 4, kLines = chunk_lines(bits), kRounds = kSteps / 4;
    const int64_t element = type == omniq::kFloat32 ? 4 : 2, groups = w.groups(), chunks = w.group_chunks();
    const int64_t first = panel * kPanel + strip * kStrip, count = w.outputs - first < kStrip ? w.outputs - first : kStrip;
    const uint8_t* lines = w.lines + panel * w.panel_bytes() + strip * kLines * kLine;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = (panel * groups + g) * kPanel + strip * kStrip;
        float scales[kStrip];
        Vector::store(scales, 0, omniq::kFloat32, Vector::load(w.scales, at, w.scale_type));
        for (int64_t c = 0; c < chunks; ++c, lines += kStrips * kLines * kLine) {
            Int line[kLines];
            for (int i = 0; i < kLines; ++i) line[i] = Vector::load_line(lines + i * kLine);
            uint8_t steps[kSteps][kLine];
            unrolled([&](auto step) { Vector::store_line(steps[decltype(step)::value], codes<bits, decltype(step)::value>(line)); },
                     std::make_integer_sequence<int, kSteps>{});
            for (int round = 0; round < kRounds; ++round) {
                const int64_t inside = (c * kRounds + round) * kStrip, left = w.group - inside;
                for (int64_t n = 0; left > 0 && n < count; ++n) {
                    uint8_t row[kStrip];
                    for (int t = 0; t < 4; ++t) __builtin_memcpy(row + 4 * t, steps[4 * round + t] + 4 * n, 4);
                    const Int zero = Vector::set(w.zeros ? w.zeros[at + n] : w.mid);
                    const Float value = Vector::mul(Vector::to_float(Vector::sub(Vector::load_bytes(row), zero)), Vector::set(scales[n]));
                    char* to = out + (n * w.columns + g * w.group + inside) * element;
                    if (left >= kStrip) {
                        Vector::store(to, 0, type, value);
                    } else {
                        char last[kStrip * sizeof(float)];
                        Vector::store(last, 0, type, value);
                        __builtin_memcpy(to, last, static_cast<size_t>(left * element));
                    }
                }
            }
        }
    }
}

void expand(const omniq::Weight& w, int64_t panel, omniq::Type type, void* out) {
    const int64_t element = type == omniq::kFloat32 ? 4 : 2;
    for (int strip = 0; strip < kStrips && panel * kPanel + strip * kStrip < w.outputs; ++strip) {
        char* rows = static_cast<char*>(out) + strip * kStrip * w.columns * element;
        switch (w.bits) {
            case 2: expand_strip<2>(w, panel, strip, type, rows); break;
            case 3: expand_strip<3>(w, panel, strip, type, rows); break;
            case 4: expand_strip<4>(w, panel, strip, type, rows); break;
            default: expand_strip<8>(w, panel, strip, type, rows);
        }
    }
}

}  // namespace
