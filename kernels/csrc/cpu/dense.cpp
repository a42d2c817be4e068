// The C entry point of dense.h: y (M, N) = x (M, K) times an unquantised weight (N, K) for few rows, on all threads.

#include "capabilities.h"
#include "pool.h"
#include "workspace.h"

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace omniq {
namespace {

constexpr int64_t kOutputs = 512;  // a task

struct Dense {
    const void* weight;
    Type type;
    int64_t rows, columns, outputs, row_size, out_size;
    const float* x;
    float* y;
};

void multiply_outputs(void* context, int64_t index) {
    const Dense& d = *static_cast<Dense*>(context);
    const int64_t first = index * kOutputs, count = minimum(kOutputs, d.outputs - first);
    for (int64_t m = 0; m < d.rows; ++m) {
        kernels().rows.dense(d.weight, d.type, d.x + m * d.row_size, d.columns, first, count, d.y + m * d.out_size);
    }
}

}  // namespace
}  // namespace omniq

// All of `type`; rows of x x_stride elements apart, those of weight and y dense.
OMNIQ_EXPORT int omniq_cpu_dense(const void* x, int type, int64_t rows, int64_t x_stride, void* y, const void* weight, int64_t outputs,
                                 int64_t columns, int threads) {
    using namespace omniq;
    const Type kind = static_cast<Type>(type);
    const int64_t row_size = rounded_up(columns + kStrip, kStrip), out_size = rounded_up(outputs + kStrip, kStrip);
    const int64_t element = kind == kFloat32 ? 4 : 2;
    float* memory = reinterpret_cast<float*>(workspace(rows * (row_size + out_size) * 4));
    if (!memory) return kNoMemory;
    Dense dense{weight, kind, rows, columns, outputs, row_size, out_size, memory, memory + rows * row_size};
    for (int64_t m = 0; m < rows; ++m) {
        kernels().rows.load(static_cast<const char*>(x) + m * x_stride * element, kind, columns, memory + m * row_size);
    }
    parallel(Work::kShort, threads, (outputs + kOutputs - 1) / kOutputs, multiply_outputs, &dense);
    for (int64_t m = 0; m < rows; ++m) {
        kernels().rows.store(dense.y + m * out_size, kind, outputs, static_cast<char*>(y) + m * outputs * element);
    }
    return kDone;
}
