// The kernels of one instruction set, written once over `Vector`. Every sum of a block is an exact integer and every
// floating-point step comes in one fixed order, so all instruction sets and all tile sizes give the same bits.
// Included once by each kernels_*.cpp, after its vector_*.h. Nothing here has external linkage.

#include <utility>

namespace {

using omniq::chunk_columns;
using omniq::chunk_lines;
using omniq::kBlock;
using omniq::kLine;
using omniq::kMaxPlanes;
using omniq::kPanel;
using omniq::kStrip;
using omniq::kStrips;
using Int = Vector::Int;
using Float = Vector::Float;

constexpr int64_t kAhead = 6144;  // bytes fetched ahead of the multiplication
constexpr int kFewRows = 4;       // digit rows up to which memory, not arithmetic, sets the pace
constexpr float kInfinity = __builtin_inff();

template <class F, int... steps> inline __attribute__((always_inline)) void unrolled(F f, std::integer_sequence<int, steps...>) {
    (f(std::integral_constant<int, steps>{}), ...);
}

// The weights of step t of a chunk, as bytes; see problem.h.
template <int bits, int t> inline __attribute__((always_inline)) Int codes(const Int* lines) {
    if constexpr (bits == 8) {
        return lines[t];
    } else if constexpr (bits == 4) {
        return Vector::masked(Vector::right<4 * (t % 2)>(lines[t / 2]), 15);
    } else if constexpr (bits == 2) {
        return Vector::masked(Vector::right<2 * t>(lines[0]), 3);
    } else {
        const Int low = Vector::masked(Vector::right<2 * (t % 4)>(lines[t / 4]), 3);
        const Int top = t < 2 ? Vector::left<(t < 2 ? 2 - t : 0)>(lines[2]) : Vector::right<(t < 2 ? 0 : t - 2)>(lines[2]);
        return Vector::either(low, Vector::masked(top, 4));
    }
}

// R digit rows times S strips of one panel.
template <int bits, int R, int S> struct Tile {
    static constexpr int kSteps = chunk_columns(bits) / 4, kLines = chunk_lines(bits);
    static constexpr int kChunkBytes = kStrips * kLines * kLine;
    // One chain of dot products takes four cycles or more a link: with few chains, two per sum.
    static constexpr int kChains = R * S <= 4 ? 2 : 1;

    // Adds one block to the integer sums.
    static inline __attribute__((always_inline)) void block(const uint8_t* lines, int64_t chunks, const int8_t* digits,
                                                            int64_t row_stride, Int (&sum)[R][S]) {
        Int extra[R][S];
        if constexpr (kChains == 2) {
            for (int r = 0; r < R; ++r)
                for (int s = 0; s < S; ++s) extra[r][s] = Vector::zero();
        }
        for (int64_t c = 0; c < chunks; ++c) {
            Int line[S][kLines];
            for (int s = 0; s < S; ++s) {
                for (int i = 0; i < kLines; ++i) {
                    const uint8_t* at = lines + c * kChunkBytes + (s * kLines + i) * kLine;
                    line[s][i] = Vector::load_line(at);
                    if constexpr (R <= kFewRows) Vector::prefetch(at + kAhead);
                }
            }
            const int8_t* x = digits + c * chunk_columns(bits);
            unrolled(
                [&](auto step) __attribute__((always_inline)) {
                    constexpr int t = decltype(step)::value;
                    Int weight[S];
                    for (int s = 0; s < S; ++s) weight[s] = codes<bits, t>(line[s]);
                    for (int r = 0; r < R; ++r) {
                        const Int four = Vector::four(x + r * row_stride + 4 * t);
                        for (int s = 0; s < S; ++s) {
                            Int& into = kChains == 2 && t % 2 ? extra[r][s] : sum[r][s];
                            into = Vector::template dot<bits>(into, weight[s], four);
                        }
                    }
                },
                std::make_integer_sequence<int, kSteps>{});
        }
        if constexpr (kChains == 2) {
            for (int r = 0; r < R; ++r)
                for (int s = 0; s < S; ++s) sum[r][s] = Vector::add(sum[r][s], extra[r][s]);
        }
    }

    // out (R, 64): digit rows first_row.. times strips first_strip.. of a panel, activation and weight scales applied.
    static void run(const omniq::Weight& w, const omniq::Rows& x, int64_t first_row, int64_t panel, int first_strip, float* out) {
        const int64_t groups = w.groups(), blocks = w.blocks(), row_stride = x.stride;
        const int64_t group_chunks = w.group_chunks(), block_chunks = kBlock / chunk_columns(bits);
        const int8_t* digits = x.digits + first_row * row_stride;
        const float* row_scales = x.scales + first_row * blocks;
        const int32_t* row_sums = x.sums + first_row * blocks;
        const uint8_t* lines = w.lines + panel * w.panel_bytes() + first_strip * kLines * kLine;
        Float total[R][S];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < S; ++s) total[r][s] = Vector::set(0.0f);
        int64_t b = 0;
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t at = (panel * groups + g) * kPanel + first_strip * kStrip;
            for (int64_t done = 0; done < group_chunks; done += block_chunks, ++b) {
                const int64_t chunks = group_chunks - done < block_chunks ? group_chunks - done : block_chunks;
                Int sum[R][S];
                for (int r = 0; r < R; ++r) {
                    const int32_t row_sum = -row_sums[r * blocks + b];
                    for (int s = 0; s < S; ++s) {
                        sum[r][s] = w.zeros ? Vector::mul(Vector::load_bytes(w.zeros + at + s * kStrip), Vector::set(row_sum))
                                            : Vector::set(w.mid * row_sum);
                    }
                }
                block(lines, chunks, digits, row_stride, sum);
                digits += chunks * chunk_columns(bits);
                lines += chunks * kChunkBytes;
                for (int s = 0; s < S; ++s) {
                    const Float scale = Vector::load(w.scales, at + s * kStrip, w.scale_type);
                    for (int r = 0; r < R; ++r) {
                        const Float factor = Vector::mul(scale, Vector::set(row_scales[r * blocks + b]));
                        total[r][s] = Vector::add(total[r][s], Vector::mul(Vector::to_float(sum[r][s]), factor));
                    }
                }
            }
        }
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < S; ++s) Vector::store(out, r * kPanel + (first_strip + s) * kStrip, omniq::kFloat32, total[r][s]);
    }
};

using Run = void (*)(const omniq::Weight&, const omniq::Rows&, int64_t, int64_t, int, float*);

template <int bits, int... rows> constexpr Run pick(int64_t wanted, std::integer_sequence<int, rows...>) {
    Run found = nullptr;
    ((wanted == rows + 1 ? (found = &Tile<bits, rows + 1, Vector::kStripsAtOnce>::run, 0) : 0), ...);
    return found;
}

Run tile_for(int bits, int64_t rows) {
    constexpr auto counts = std::make_integer_sequence<int, Vector::kRows>{};
    switch (bits) {
        case 2: return pick<2>(rows, counts);
        case 3: return pick<3>(rows, counts);
        case 4: return pick<4>(rows, counts);
        default: return pick<8>(rows, counts);
    }
}

// Sums the planes of each row, the highest first, and writes the outputs that exist.
void write_rows(const float* tile, int64_t rows, int planes, int64_t row, int64_t column, int64_t outputs, const omniq::Output& out) {
    const int64_t valid = outputs - column < kPanel ? outputs - column : kPanel;
    const int64_t bytes = out.type == omniq::kFloat32 ? 4 : 2;
    for (int64_t r = 0; r < rows; ++r, tile += planes * kPanel) {
        char* y = static_cast<char*>(out.y) + ((row + r) * out.stride + column) * bytes;
        for (int64_t n = 0; n < valid; n += kStrip) {
            Float value = Vector::load(tile, n, omniq::kFloat32);
            for (int p = 1; p < planes; ++p) value = Vector::add(value, Vector::load(tile, p * kPanel + n, omniq::kFloat32));
            if (n + kStrip <= valid) {
                Vector::store(y, n, out.type, value);
            } else {
                float last[kStrip];
                Vector::store(last, 0, out.type, value);
                __builtin_memcpy(y + n * bytes, last, static_cast<size_t>((valid - n) * bytes));
            }
        }
    }
}

void multiply(const omniq::Weight& w, const omniq::Rows& x, int64_t first_row, int64_t rows, int64_t first_panel, int64_t panels,
              const omniq::Output& out) {
    // Whole rows to a tile; where the planes of one row are more than the digit rows of a tile, the row takes several.
    alignas(64) float tile[kMaxPlanes * Vector::kRows * kPanel];
    const int64_t step = Vector::kRows / x.planes > 0 ? Vector::kRows / x.planes : 1;
    for (int64_t panel = first_panel; panel < first_panel + panels; ++panel) {
        for (int64_t r = 0; r < rows; r += step) {
            const int64_t now = rows - r < step ? rows - r : step;
            for (int64_t done = 0; done < now * x.planes; done += Vector::kRows) {
                const int64_t part = now * x.planes - done < Vector::kRows ? now * x.planes - done : Vector::kRows;
                for (int strip = 0; strip < kStrips; strip += Vector::kStripsAtOnce) {
                    tile_for(w.bits, part)(w, x, r * x.planes + done, panel, strip, tile + done * kPanel);
                }
            }
            write_rows(tile, now, x.planes, first_row + r, panel * kPanel, w.outputs, out);
        }
    }
}

// --- from activations to digits

// Columns of one group in `scratch`, as float32, zeros up to its padded length.
void load_group(const omniq::Input& in, int64_t row, int64_t column, int64_t count, int64_t padded, float* scratch) {
    int64_t i = 0;
    if (in.codes) {
        const int16_t* codes = in.codes + row * in.stride + column;
        for (; i + kStrip <= count; i += kStrip) Vector::store(scratch, i, omniq::kFloat32, Vector::to_float(Vector::load_shorts(codes + i)));
        for (; i < count; ++i) scratch[i] = codes[i];
    } else {
        const char* x = static_cast<const char*>(in.x) + (row * in.stride + column) * (in.type == omniq::kFloat32 ? 4 : 2);
        for (; i + kStrip <= count; i += kStrip) Vector::store(scratch, i, omniq::kFloat32, Vector::load(x, i, in.type));
        if (i < count) {
            char last[kStrip * sizeof(float)] = {};
            const int64_t bytes = in.type == omniq::kFloat32 ? 4 : 2;
            __builtin_memcpy(last, x + i * bytes, static_cast<size_t>((count - i) * bytes));
            Vector::store(scratch, i, omniq::kFloat32, Vector::load(last, 0, in.type));
            i += kStrip;
        }
    }
    for (; i < padded; ++i) scratch[i] = 0.0f;
}

float float_of(int32_t bits) {
    float v;
    __builtin_memcpy(&v, &bits, 4);
    return v;
}

struct Grid {
    float scale, inverse;  // x = scale * integer
};

// One plane: the largest value becomes 127. More: a power of two, so that values with few digits stay exact.
Grid block_grid(float largest, int planes) {
    if (!(largest < kInfinity)) return {__builtin_nanf(""), 0.0f};
    if (planes == 1) return largest > 1e-30f ? Grid{largest / 127.0f, 127.0f / largest} : Grid{0.0f, 0.0f};
    if (largest == 0.0f) return {0.0f, 0.0f};
    float limit = 127.0f;  // times 256 a plane: so large that no digit leaves -128 to 127
    for (int p = 1; p < planes; ++p) limit *= 256.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &largest, 4);
    int exponent = 8 * planes - 2 - ((bits >> 23) - 127);
    exponent = exponent > 126 ? 126 : exponent;
    if (largest * float_of((exponent + 127) << 23) > limit) --exponent;
    return {float_of((127 - exponent) << 23), float_of((127 + exponent) << 23)};
}

// Splits integers into planes of signed bytes, the highest first, and sums each plane.
void store_digits(const float* values, int64_t count, float inverse, int planes, int8_t* digits, int64_t plane_stride, int32_t* sums, int64_t sum_stride) {
    Int total[kMaxPlanes];
    for (Int& sum : total) sum = Vector::zero();
    const Float factor = Vector::set(inverse);
    for (int64_t i = 0; i < count; i += kStrip) {
        Int rest = Vector::rounded(Vector::mul(Vector::load(values, i, omniq::kFloat32), factor));
        for (int p = planes - 1; p > 0; --p) {
            const Int low = Vector::low_byte(rest);
            Vector::store_bytes(digits + p * plane_stride + i, low);
            total[p] = Vector::add(total[p], low);
            rest = Vector::shift_byte(Vector::sub(rest, low));
        }
        Vector::store_bytes(digits + i, rest);
        total[0] = Vector::add(total[0], rest);
    }
    for (int p = 0; p < planes; ++p) sums[p * sum_stride] = Vector::total(total[p]);
}

void digitize(const omniq::Weight& w, const omniq::Input& in, int64_t row, int64_t slot, float* scratch, const omniq::Rows& out) {
    const int64_t padded = w.group_padded(), blocks = w.blocks(), stride = out.stride;
    int64_t b = slot * out.planes * blocks;
    int8_t* digits = out.digits + slot * out.planes * stride;
    for (int64_t g = 0; g < w.groups(); ++g) {
        load_group(in, row, g * w.group, w.group, padded, scratch);
        for (int64_t first = 0; first < padded; first += kBlock, ++b) {
            const int64_t count = padded - first < kBlock ? padded - first : kBlock;
            Grid grid{1.0f, 1.0f};
            if (in.codes) {
                grid.scale = in.code_scales[row];
            } else {
                Int top = Vector::zero();
                for (int64_t i = 0; i < count; i += kStrip) top = Vector::max(top, Vector::magnitude_bits(Vector::load(scratch, first + i, omniq::kFloat32)));
                grid = block_grid(float_of(Vector::largest(top)), out.planes);
            }
            const bool sound = grid.scale == grid.scale;
            if (!sound) {  // a NaN or an infinity somewhere: the digits do not matter, the scale spoils every output
                for (int64_t i = 0; i < count; ++i) scratch[first + i] = 0.0f;
            }
            store_digits(scratch + first, count, grid.inverse, out.planes, digits, stride, out.sums + b, blocks);
            float scale = grid.scale;
            for (int p = out.planes - 1; p >= 0; --p, scale *= 256.0f) out.scales[b + p * blocks] = scale;
            digits += count;
        }
    }
}

}  // namespace
