// Memory for one call, and the codes that entry points answer with.

#pragma once

#include "problem.h"

namespace omniq {

enum Status : int { kDone = 0, kNoMemory = 1, kBadArgument = 2 };

// At least `bytes`, aligned to 64; null where there is no more memory. The calling thread keeps it for its next call,
// since a model calls again and again with the same sizes.
char* workspace(int64_t bytes);

inline int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Digit rows are one line longer than they need: a multiple of 4096 bytes apart they would share one set of the cache.
inline int64_t digit_stride(const Weight& w) { return rounded_up(w.padded(), kLine) + kLine; }

// Weight bytes times rows below which another thread costs more than it gives.
constexpr int64_t kThreadBytes = 1 << 15;

}  // namespace omniq
