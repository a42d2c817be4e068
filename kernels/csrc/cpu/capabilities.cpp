// What the processor can do, asked at run time: the library is compiled for the baseline of its architecture, and only
// the kernels named after an instruction set use it, so one build serves every machine.

#include "capabilities.h"

#include <atomic>
#include <cstring>

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace omniq {
namespace {

struct Isa {
    const char* name;
    bool (*present)();
    const Kernels* kernels;
};

bool always() { return true; }
#if defined(__x86_64__)
// The builtin also checks that the operating system saves the wide registers, which CPUID alone does not say.
bool has_avx512_vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("f16c");
}
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512_bf16() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx512_bf16() { return false; }
#endif

// Widest first; the last one runs everywhere.
const Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512vnni", has_avx512_vnni, &kAvx512Vnni},
    {"avx2", has_avx2, &kAvx2},
#endif
    {"portable", always, &kPortable},
};

const Isa* widest() {
    const Isa* isa = kIsas;
    while (!isa->present()) ++isa;
    return isa;
}

std::atomic<const Isa*> chosen{nullptr};

const Isa* current() {
    const Isa* isa = chosen.load(std::memory_order_relaxed);
    if (!isa) chosen.store(isa = widest(), std::memory_order_relaxed);
    return isa;
}

}  // namespace

const Kernels& kernels() { return *current()->kernels; }

}  // namespace omniq

// The instruction set in use: "avx512vnni", "avx2" or "portable".
OMNIQ_EXPORT const char* omniq_cpu_isa() { return omniq::current()->name; }

// Uses another one from now on; 0, or 1 where this processor lacks it or the name is unknown.
OMNIQ_EXPORT int omniq_cpu_use_isa(const char* name) {
    for (const omniq::Isa& isa : omniq::kIsas) {
        if (std::strcmp(isa.name, name) == 0 && isa.present()) {
            omniq::chosen.store(&isa);
            return 0;
        }
    }
    return 1;
}

// 1 where bfloat16 dot products are instructions, 0 where they are emulated.
OMNIQ_EXPORT int omniq_cpu_has_bfloat16() { return omniq::has_avx512_bf16() ? 1 : 0; }
