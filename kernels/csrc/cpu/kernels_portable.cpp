#include "vector_portable.h"

#include "linear.h"

#include "expand.h"

#include "elementwise.h"

#include "attention.h"

#include "dense.h"

namespace omniq {
extern const Kernels kPortable;
constexpr Kernels kPortable{&digitize, &multiply, &expand, {&load_row, &store_row, &add_row, &norm_row, &rotate, &attend, &attend_tile, &tile_room, &dense_row, &gate_row}};
}  // namespace omniq
