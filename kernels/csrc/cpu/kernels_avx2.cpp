#include "vector_avx2.h"

#include "linear.h"

#include "expand.h"

#include "elementwise.h"

#include "attention.h"

#include "dense.h"

namespace omniq {
extern const Kernels kAvx2;
constexpr Kernels kAvx2{&digitize, &multiply, &expand, {&load_row, &store_row, &add_row, &norm_row, &rotate, &attend, &attend_tile, &tile_room, &dense_row, &gate_row}};
}  // namespace omniq
