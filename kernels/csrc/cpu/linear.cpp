// The C entry points of the quantised linear layer: y (M, N) = x (M, K) times the weight (N, K), on all threads.

#include "capabilities.h"
#include "pool.h"
#include "workspace.h"

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace omniq {
namespace {

constexpr int64_t kFewRows = 8;      // up to here a call is as long as reading the weight
constexpr int64_t kRowsAtOnce = 192;  // digit rows of a pass: with K = 4096 they take 768 KB, within a level-2 cache

struct Call {
    const Weight& weight;
    const Input& input;
    const Output& output;
    Rows rows;
    float* scratch;       // one padded group and a strip more for each row of a pass
    int64_t scratch_size;
    int64_t first, count;  // rows of this pass
    int64_t share;         // panels a task
};

void digitize_row(void* context, int64_t index) {
    const Call& c = *static_cast<Call*>(context);
    kernels().digitize(c.weight, c.input, c.first + index, index, c.scratch + index * c.scratch_size, c.rows);
}

void multiply_share(void* context, int64_t index) {
    const Call& c = *static_cast<Call*>(context);
    const int64_t panel = index * c.share, left = c.weight.panels() - panel;
    kernels().multiply(c.weight, c.rows, c.first, c.count, panel, left < c.share ? left : c.share, c.output);
}

int run(const Weight& w, const Input& in, const Output& out, int planes, int threads) {
    const int64_t rows = minimum(in.rows, kRowsAtOnce / planes), digit_rows = rows * planes;
    const int64_t stride = digit_stride(w);
    const int64_t digit_bytes = digit_rows * stride, scale_bytes = rounded_up(digit_rows * w.blocks() * 4, 64);
    const int64_t scratch_size = rounded_up(w.group_padded() + kStrip, 16);
    char* bytes = workspace(digit_bytes + 2 * scale_bytes + rows * scratch_size * 4);
    if (!bytes) return kNoMemory;
    const Rows digits{reinterpret_cast<int8_t*>(bytes), reinterpret_cast<float*>(bytes + digit_bytes),
                      reinterpret_cast<int32_t*>(bytes + digit_bytes + scale_bytes), planes, stride};
    Call call{w, in, out, digits, reinterpret_cast<float*>(bytes + digit_bytes + 2 * scale_bytes), scratch_size, 0, 0, 0};
    const int64_t panels = w.panels();
    for (; call.first < in.rows; call.first += rows) {
        call.count = minimum(rows, in.rows - call.first);
        const int64_t useful = 1 + panels * w.panel_bytes() * call.count * planes / kThreadBytes;
        const int used = static_cast<int>(minimum(threads, useful));
        // A few shares a thread even out their speeds; with a single row each is one long read, as long as possible.
        const int64_t shares = used * (call.count > 1 ? 4 : 1);
        call.share = (panels + shares - 1) / shares;
        const Work work = call.count > kFewRows ? Work::kLong : Work::kShort;
        parallel(work, call.count > 1 ? used : 1, call.count, digitize_row, &call);
        parallel(work, used, (panels + call.share - 1) / call.share, multiply_share, &call);
    }
    return kDone;
}

struct Expansion {
    const Weight& weight;
    Type type;
    int64_t first;
    char* out;
};

void expand_panel(void* context, int64_t index) {
    const Expansion& e = *static_cast<Expansion*>(context);
    const int64_t bytes = kPanel * e.weight.columns * (e.type == kFloat32 ? 4 : 2);
    kernels().expand(e.weight, e.first + index, e.type, e.out + index * bytes);
}

bool valid(const Weight& w, const Input& in, int planes, int threads) {
    const bool bits = w.bits == 2 || w.bits == 3 || w.bits == 4 || w.bits == 8;
    const bool sizes = w.outputs > 0 && w.columns > 0 && w.group > 0 && w.columns % w.group == 0 && in.rows >= 0;
    return bits && sizes && planes >= 1 && planes <= kMaxPlanes && threads >= 1 && w.scale_type >= kFloat32 &&
           w.scale_type <= kFloat16 && in.type >= kFloat32 && in.type <= kFloat16;
}

}  // namespace
}  // namespace omniq

// x (M, K) in floating point, turned into `planes` int8 digits a value, a scale per row and block of columns.
OMNIQ_EXPORT int omniq_cpu_linear(const void* x, int type, int64_t rows, int64_t x_stride, void* y, int64_t y_stride,
                                  const uint8_t* lines, const void* scales, int scale_type, const uint8_t* zeros, int bits, int mid,
                                  int64_t outputs, int64_t columns, int64_t group, int planes, int threads) {
    const omniq::Weight w{lines, scales, zeros, static_cast<omniq::Type>(scale_type), bits, mid, outputs, columns, group};
    const omniq::Input in{x, nullptr, nullptr, static_cast<omniq::Type>(type), rows, x_stride};
    if (!omniq::valid(w, in, planes, threads)) return omniq::kBadArgument;
    return omniq::run(w, in, {y, in.type, y_stride}, planes, threads);
}

// codes (M, K) with one scale a row: activations that their scheme quantises. One plane holds -128 to 127, two the rest.
OMNIQ_EXPORT int omniq_cpu_linear_codes(const int16_t* codes, const float* code_scales, int64_t rows, void* y, int type, int64_t y_stride,
                                        const uint8_t* lines, const void* scales, int scale_type, const uint8_t* zeros, int bits, int mid,
                                        int64_t outputs, int64_t columns, int64_t group, int planes, int threads) {
    const omniq::Weight w{lines, scales, zeros, static_cast<omniq::Type>(scale_type), bits, mid, outputs, columns, group};
    const omniq::Input in{nullptr, codes, code_scales, static_cast<omniq::Type>(type), rows, columns};
    if (!omniq::valid(w, in, planes, threads)) return omniq::kBadArgument;
    return omniq::run(w, in, {y, in.type, y_stride}, planes, threads);
}

// Panels first.. of the weight, `panels` of them -> their rows (64 x panels or as many as there are, K) of `type`, dense.
OMNIQ_EXPORT int omniq_cpu_expand(int64_t first, int64_t panels, void* out, int type, const uint8_t* lines, const void* scales,
                                  int scale_type, const uint8_t* zeros, int bits, int mid, int64_t outputs, int64_t columns,
                                  int64_t group, int threads) {
    const omniq::Weight w{lines, scales, zeros, static_cast<omniq::Type>(scale_type), bits, mid, outputs, columns, group};
    const omniq::Type kind = static_cast<omniq::Type>(type);
    if (!omniq::valid(w, {nullptr, nullptr, nullptr, kind, 0, 0}, 1, threads) || first < 0 || first + panels > w.panels()) {
        return omniq::kBadArgument;
    }
    omniq::Expansion expansion{w, kind, first, static_cast<char*>(out)};
    omniq::parallel(omniq::Work::kLong, threads, panels, omniq::expand_panel, &expansion);
    return omniq::kDone;
}

// Does long work on these threads instead of the library's own; null goes back. See pool.h.
OMNIQ_EXPORT void omniq_cpu_borrow_threads(void* fork) { omniq::borrow_threads(reinterpret_cast<omniq::Fork>(fork)); }
