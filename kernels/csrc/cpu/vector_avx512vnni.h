// Sixteen lanes in one register: the primitives that linear.h is written in.

#pragma once

#include <immintrin.h>

#include "problem.h"

namespace {

struct Vector {
    using Int = __m512i;
    using Float = __m512;
    static constexpr int kRows = 4, kStripsAtOnce = 4;  // 16 integer sums and most floating-point ones stay in registers

    static Int load_line(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void store_line(uint8_t* p, Int v) { _mm512_storeu_si512(p, v); }
    static inline __attribute__((always_inline)) void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
    template <int n> static Int right(Int v) { return n ? _mm512_srli_epi16(v, n) : v; }
    template <int n> static Int left(Int v) { return n ? _mm512_slli_epi16(v, n) : v; }
    static Int masked(Int v, int byte) { return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(byte))); }
    static Int either(Int a, Int b) { return _mm512_or_si512(a, b); }
    static Int four(const int8_t* p) {
        int32_t word;
        __builtin_memcpy(&word, p, 4);
        return _mm512_set1_epi32(word);
    }
    template <int bits> static Int dot(Int sum, Int weight, Int x) { return _mm512_dpbusd_epi32(sum, weight, x); }

    static Int zero() { return _mm512_setzero_si512(); }
    static Int set(int32_t v) { return _mm512_set1_epi32(v); }
    static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static Int sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
    static Int mul(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
    static Int max(Int a, Int b) { return _mm512_max_epi32(a, b); }
    static Int low_byte(Int v) { return _mm512_srai_epi32(_mm512_slli_epi32(v, 24), 24); }
    static Int shift_byte(Int v) { return _mm512_srai_epi32(v, 8); }
    static Int load_bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static Int load_shorts(const int16_t* p) {
        return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static void store_bytes(int8_t* p, Int v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v)); }
    static int32_t total(Int v) { return _mm512_reduce_add_epi32(v); }
    static int32_t largest(Int v) { return _mm512_reduce_max_epi32(v); }

    static Float set(float v) { return _mm512_set1_ps(v); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
    static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static Float times_power_of_two(Float v, Int exponent) {
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(exponent, 23)));
    }
    static float total(Float v) { return _mm512_reduce_add_ps(v); }
    static Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
    static Int rounded(Float v) { return _mm512_cvtps_epi32(v); }
    static Int magnitude_bits(Float v) { return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)); }

    static Float load(const void* p, int64_t i, omniq::Type type) {
        if (type == omniq::kFloat32) return _mm512_loadu_ps(static_cast<const float*>(p) + i);
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(p) + i));
        if (type == omniq::kFloat16) return _mm512_cvtph_ps(half);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
    static void store(void* p, int64_t i, omniq::Type type, Float v) {
        if (type == omniq::kFloat32) return _mm512_storeu_ps(static_cast<float*>(p) + i, v);
        __m256i half;
        if (type == omniq::kFloat16) {
            half = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        } else {
            // Nearest, ties to even; a NaN keeps its top bits and stays one.
            const __m512i bits = _mm512_castps_si512(v);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
            up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x00400000));
            half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(p) + i), half);
    }
};

}  // namespace
