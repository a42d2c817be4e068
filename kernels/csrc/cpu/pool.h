// Threads to work on. The library links no OpenMP: torch brings its own copy, and two in one process fight for the cores.
// Short work, such as a layer of one token, goes to workers of its own: the caller takes every piece that none of them has
// begun, so it never waits for a worker that the system has not let run. Long work goes to torch's threads where the
// caller handed over their entry point, since those stay awake for a while after each of torch's operations, and a worker
// beside them would get half a core.

#pragma once

#include <cstdint>

namespace omniq {

using Task = void (*)(void* context, int64_t index);

enum class Work { kShort, kLong };

// Runs task(context, i) for every i in [0, count) on up to `threads` threads, the caller among them; returns when all are
// done. Which thread runs which index is not fixed, so tasks must not depend on it. Calls from several threads do not
// disturb each other.
void parallel(Work work, int threads, int64_t count, Task task, void* context);

// GOMP_parallel of the OpenMP that torch has loaded: runs body(data) on `threads` threads at once.
using Fork = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// Borrows these threads for long work from now on; null returns to the library's own.
void borrow_threads(Fork fork);

}  // namespace omniq
