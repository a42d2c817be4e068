#include "vector_avx512vnni.h"

#include "linear.h"

#include "expand.h"

#include "elementwise.h"

#include "attention.h"

#include "dense.h"

namespace omniq {
extern const Kernels kAvx512Vnni;
constexpr Kernels kAvx512Vnni{&digitize, &multiply, &expand, {&load_row, &store_row, &add_row, &norm_row, &rotate, &attend, &attend_tile, &tile_room, &dense_row, &gate_row}};
}  // namespace omniq
