// Large pages for weights: read in one straight line, they otherwise cost an address translation every 4096 bytes.

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

// Asks for pages of 2 MB where whole ones fit into [start, start + bytes), before anything is written there. A wish: where
// the system does not grant it, nothing changes.
OMNIQ_EXPORT void omniq_cpu_prefer_large_pages(void* start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kLarge = 2u << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(start) + kLarge - 1) / kLarge * kLarge;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(start) + static_cast<uintptr_t>(bytes)) / kLarge * kLarge;
    if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)start;
    (void)bytes;
#endif
}
