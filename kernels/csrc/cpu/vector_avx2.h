// Sixteen lanes in two registers of 256 bits: the primitives that linear.h is written in.

#pragma once

#include <immintrin.h>

#include "problem.h"

namespace {

struct Vector {
    struct Int {
        __m256i a, b;
    };
    struct Float {
        __m256 a, b;
    };
    static constexpr int kRows = 2, kStripsAtOnce = 2;  // 8 of 16 registers hold sums

    static Int load_line(const uint8_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + 1)};
    }
    static void store_line(uint8_t* p, Int v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, v.b);
    }
    static inline __attribute__((always_inline)) void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
    template <int n> static Int right(Int v) {
        if constexpr (n == 0) return v;
        return {_mm256_srli_epi16(v.a, n), _mm256_srli_epi16(v.b, n)};
    }
    template <int n> static Int left(Int v) {
        if constexpr (n == 0) return v;
        return {_mm256_slli_epi16(v.a, n), _mm256_slli_epi16(v.b, n)};
    }
    static Int masked(Int v, int byte) {
        const __m256i m = _mm256_set1_epi8(static_cast<char>(byte));
        return {_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
    }
    static Int either(Int a, Int b) { return {_mm256_or_si256(a.a, b.a), _mm256_or_si256(a.b, b.b)}; }
    static Int four(const int8_t* p) {
        int32_t word;
        __builtin_memcpy(&word, p, 4);
        return set(word);
    }
    // Pairs are summed in 16 bits first: 2 * 15 * 128 fits, 2 * 255 * 128 does not, so 8-bit codes go as two nibbles.
    template <int bits> static Int dot(Int sum, Int weight, Int x) {
        if constexpr (bits < 8) return add(sum, pairs(weight, x));
        const Int high = pairs(masked(right<4>(weight), 15), x);
        return add(add(sum, pairs(masked(weight, 15), x)), Int{_mm256_slli_epi32(high.a, 4), _mm256_slli_epi32(high.b, 4)});
    }
    static Int pairs(Int weight, Int x) {
        const __m256i ones = _mm256_set1_epi16(1);
        return {_mm256_madd_epi16(_mm256_maddubs_epi16(weight.a, x.a), ones),
                _mm256_madd_epi16(_mm256_maddubs_epi16(weight.b, x.b), ones)};
    }

    static Int zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static Int set(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
    static Int add(Int a, Int b) { return {_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)}; }
    static Int sub(Int a, Int b) { return {_mm256_sub_epi32(a.a, b.a), _mm256_sub_epi32(a.b, b.b)}; }
    static Int mul(Int a, Int b) { return {_mm256_mullo_epi32(a.a, b.a), _mm256_mullo_epi32(a.b, b.b)}; }
    static Int max(Int a, Int b) { return {_mm256_max_epi32(a.a, b.a), _mm256_max_epi32(a.b, b.b)}; }
    static Int low_byte(Int v) {
        return {_mm256_srai_epi32(_mm256_slli_epi32(v.a, 24), 24), _mm256_srai_epi32(_mm256_slli_epi32(v.b, 24), 24)};
    }
    static Int shift_byte(Int v) { return {_mm256_srai_epi32(v.a, 8), _mm256_srai_epi32(v.b, 8)}; }
    static Int load_bytes(const uint8_t* p) {
        const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
    }
    static Int load_shorts(const int16_t* p) {
        return {_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + 1))};
    }
    static void store_bytes(int8_t* p, Int v) {
        alignas(32) int32_t lanes[16];
        spill(lanes, v);
        for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lanes[i]);
    }
    static void spill(int32_t* lanes, Int v) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v.a);
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes) + 1, v.b);
    }
    static int32_t total(Int v) {
        alignas(32) int32_t lanes[16];
        spill(lanes, v);
        int32_t sum = 0;
        for (int32_t lane : lanes) sum += lane;
        return sum;
    }
    static int32_t largest(Int v) {
        alignas(32) int32_t lanes[16];
        spill(lanes, v);
        int32_t top = lanes[0];
        for (int32_t lane : lanes) top = lane > top ? lane : top;
        return top;
    }

    static Float set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
    static Float add(Float a, Float b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
    static Float mul(Float a, Float b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
    static Float fma(Float a, Float b, Float c) { return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
    static Float sub(Float a, Float b) { return {_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)}; }
    static Float div(Float a, Float b) { return {_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)}; }
    static Float max(Float a, Float b) { return {_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
    static Float times_power_of_two(Float v, Int exponent) {
        return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.a), _mm256_slli_epi32(exponent.a, 23))),
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.b), _mm256_slli_epi32(exponent.b, 23)))};
    }
    // Halves are folded onto each other, the order in which the wider registers add up too.
    static float total(Float v) {
        const __m256 eight = _mm256_add_ps(v.a, v.b);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    static Float to_float(Int v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
    static Int rounded(Float v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
    static Int magnitude_bits(Float v) {
        const __m256i m = _mm256_set1_epi32(0x7fffffff);
        return {_mm256_and_si256(_mm256_castps_si256(v.a), m), _mm256_and_si256(_mm256_castps_si256(v.b), m)};
    }

    static Float load(const void* p, int64_t i, omniq::Type type) {
        if (type == omniq::kFloat32) {
            const float* f = static_cast<const float*>(p) + i;
            return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
        }
        const __m128i* half = reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(p) + i);
        return {widened(_mm_loadu_si128(half), type), widened(_mm_loadu_si128(half + 1), type)};
    }
    static __m256 widened(__m128i half, omniq::Type type) {
        if (type == omniq::kFloat16) return _mm256_cvtph_ps(half);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    }
    static void store(void* p, int64_t i, omniq::Type type, Float v) {
        if (type == omniq::kFloat32) {
            float* f = static_cast<float*>(p) + i;
            _mm256_storeu_ps(f, v.a);
            _mm256_storeu_ps(f + 8, v.b);
            return;
        }
        __m128i* half = reinterpret_cast<__m128i*>(static_cast<uint16_t*>(p) + i);
        _mm_storeu_si128(half, narrowed(v.a, type));
        _mm_storeu_si128(half + 1, narrowed(v.b, type));
    }
    static __m128i narrowed(__m256 v, omniq::Type type) {
        if (type == omniq::kFloat16) return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        // Nearest, ties to even; a NaN keeps its top bits and stays one.
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256i top = _mm256_srli_epi32(_mm256_blendv_epi8(up, nan, is_nan), 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    }
};

}  // namespace
