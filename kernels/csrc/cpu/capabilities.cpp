// What the processor this process runs on can do, asked at run time: the library is compiled for the baseline of its
// architecture, so one build serves every machine. Plain C ABI, called through ctypes from kernels/native.py.

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__x86_64__)
// The builtin also checks that the operating system saves the wide registers, which CPUID alone does not say.
bool has_avx512_vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512_bf16() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx512_vnni() { return false; }
bool has_avx2() { return false; }
bool has_avx512_bf16() { return false; }
#endif

}  // namespace

// The widest instruction set that kernels may use: "avx512vnni", "avx2" or "portable".
OMNIQ_EXPORT const char* omniq_cpu_isa() {
    if (has_avx512_vnni()) return "avx512vnni";
    if (has_avx2()) return "avx2";
    return "portable";
}

// 1 where bfloat16 dot products are instructions, 0 where they are emulated.
OMNIQ_EXPORT int omniq_cpu_has_bfloat16() { return has_avx512_bf16() ? 1 : 0; }
