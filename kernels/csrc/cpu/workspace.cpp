#include "workspace.h"

#include <cstdlib>

namespace omniq {
namespace {

struct Memory {
    char* bytes = nullptr;
    int64_t size = 0;
    ~Memory() { std::free(bytes); }
};
thread_local Memory memory;

}  // namespace

char* workspace(int64_t bytes) {
    if (bytes <= memory.size) return memory.bytes;
    std::free(memory.bytes);
    memory.bytes = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(rounded_up(bytes, 64))));
    memory.size = memory.bytes ? bytes : 0;
    return memory.bytes;
}

}  // namespace omniq
