// Threads to work on. The library links no OpenMP: torch brings its own copy, and two in one process fight for the
// cores. It borrows torch's threads where the caller hands over their entry point, and keeps workers of its own elsewhere.

#pragma once

#include <cstdint>

namespace omniq {

using Task = void (*)(void* context, int64_t index);

// Runs task(context, i) for every i in [0, count) on up to `threads` threads, the caller among them; returns when all
// are done. Which thread runs which index is not fixed, so tasks must not depend on it. Calls from several threads do not
// disturb each other.
void parallel(int threads, int64_t count, Task task, void* context);

// GOMP_parallel of the OpenMP that torch has loaded: runs body(data) on `threads` threads at once.
using Fork = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// Borrows these threads from now on; null returns to the library's own.
void borrow_threads(Fork fork);

}  // namespace omniq
