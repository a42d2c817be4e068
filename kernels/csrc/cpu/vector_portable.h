// Sixteen lanes in plain arrays: the primitives that linear.h is written in, for any processor.

#pragma once

#include <cmath>
#include <cstring>

#include "problem.h"

namespace {

struct Vector {
    struct Int {
        int32_t lane[16];
    };
    struct Float {
        float lane[16];
    };
    static constexpr int kRows = 1, kStripsAtOnce = 1;

    template <class F> static Int each(F f) {
        Int out;
        for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
        return out;
    }
    template <class F> static Float each_float(F f) {
        Float out;
        for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
        return out;
    }

    static Int load_line(const uint8_t* p) {
        Int out;
        std::memcpy(out.lane, p, sizeof out.lane);
        return out;
    }
    static void store_line(uint8_t* p, Int v) { std::memcpy(p, v.lane, sizeof v.lane); }
    static void prefetch(const uint8_t*) {}
    template <int n> static Int right(Int v) {
        return each([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(v.lane[i]) >> n); });
    }
    template <int n> static Int left(Int v) {
        return each([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(v.lane[i]) << n); });
    }
    static Int masked(Int v, int byte) {
        const uint32_t mask = 0x01010101u * static_cast<uint32_t>(byte);
        return each([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(v.lane[i]) & mask); });
    }
    static Int either(Int a, Int b) {
        return each([&](int i) { return a.lane[i] | b.lane[i]; });
    }
    static Int four(const int8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return set(word);
    }
    // Bytes are taken with shifts, so that the order in memory does not matter as long as both operands share it.
    template <int bits> static Int dot(Int sum, Int weight, Int x) {
        for (int byte = 0; byte < 4; ++byte) {
            const int8_t value = static_cast<int8_t>(static_cast<uint32_t>(x.lane[0]) >> (8 * byte));
            for (int i = 0; i < 16; ++i) {
                sum.lane[i] += static_cast<int32_t>((static_cast<uint32_t>(weight.lane[i]) >> (8 * byte)) & 255u) * value;
            }
        }
        return sum;
    }

    static Int zero() { return set(0); }
    static Int set(int32_t v) {
        return each([&](int) { return v; });
    }
    static Int add(Int a, Int b) {
        return each([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Int sub(Int a, Int b) {
        return each([&](int i) { return a.lane[i] - b.lane[i]; });
    }
    static Int mul(Int a, Int b) {
        return each([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    static Int max(Int a, Int b) {
        return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    static Int low_byte(Int v) {
        return each([&](int i) { return static_cast<int32_t>(static_cast<int8_t>(v.lane[i])); });
    }
    static Int shift_byte(Int v) {
        return each([&](int i) { return v.lane[i] >> 8; });
    }
    static Int load_bytes(const uint8_t* p) {
        return each([&](int i) { return static_cast<int32_t>(p[i]); });
    }
    static Int load_shorts(const int16_t* p) {
        return each([&](int i) { return static_cast<int32_t>(p[i]); });
    }
    static void store_bytes(int8_t* p, Int v) {
        for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v.lane[i]);
    }
    static int32_t total(Int v) {
        int32_t sum = 0;
        for (int32_t lane : v.lane) sum += lane;
        return sum;
    }
    static int32_t largest(Int v) {
        int32_t top = v.lane[0];
        for (int32_t lane : v.lane) top = lane > top ? lane : top;
        return top;
    }

    static Float set(float v) {
        return each_float([&](int) { return v; });
    }
    static Float add(Float a, Float b) {
        return each_float([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Float mul(Float a, Float b) {
        return each_float([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    static Float fma(Float a, Float b, Float c) {
        return each_float([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
    }
    static Float sub(Float a, Float b) {
        return each_float([&](int i) { return a.lane[i] - b.lane[i]; });
    }
    static Float div(Float a, Float b) {
        return each_float([&](int i) { return a.lane[i] / b.lane[i]; });
    }
    static Float max(Float a, Float b) {
        return each_float([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    static Float times_power_of_two(Float v, Int exponent) {
        return each_float([&](int i) {
            return float_of(static_cast<uint32_t>(bits_of(v.lane[i])) + (static_cast<uint32_t>(exponent.lane[i]) << 23));
        });
    }
    // Halves are folded onto each other, the order in which the wider registers add up too.
    static float total(Float v) {
        for (int half = 8; half > 0; half /= 2) {
            for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
        }
        return v.lane[0];
    }
    static Float to_float(Int v) {
        return each_float([&](int i) { return static_cast<float>(v.lane[i]); });
    }
    static Int rounded(Float v) {
        return each([&](int i) { return static_cast<int32_t>(std::nearbyintf(v.lane[i])); });
    }
    static Int magnitude_bits(Float v) {
        return each([&](int i) { return bits_of(v.lane[i]) & 0x7fffffff; });
    }
    static int32_t bits_of(float v) {
        int32_t bits;
        std::memcpy(&bits, &v, 4);
        return bits;
    }
    static float float_of(uint32_t bits) {
        float v;
        std::memcpy(&v, &bits, 4);
        return v;
    }

    static Float load(const void* p, int64_t i, omniq::Type type) {
        Float out;
        if (type == omniq::kFloat32) {
            std::memcpy(out.lane, static_cast<const float*>(p) + i, sizeof out.lane);
            return out;
        }
        const uint16_t* half = static_cast<const uint16_t*>(p) + i;
        return each_float([&](int n) {
            return type == omniq::kFloat16 ? from_half(half[n]) : float_of(static_cast<uint32_t>(half[n]) << 16);
        });
    }
    static void store(void* p, int64_t i, omniq::Type type, Float v) {
        if (type == omniq::kFloat32) {
            std::memcpy(static_cast<float*>(p) + i, v.lane, sizeof v.lane);
            return;
        }
        uint16_t* half = static_cast<uint16_t*>(p) + i;
        for (int n = 0; n < 16; ++n) half[n] = type == omniq::kFloat16 ? to_half(v.lane[n]) : to_bfloat(v.lane[n]);
    }
    static float from_half(uint16_t half) {
        const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
        if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
        // Multiplying moves the exponent, and turns subnormal halves into normal floats exactly.
        return float_of(sign | static_cast<uint32_t>(bits_of(float_of(rest << 13) * 0x1p112f)));
    }
    static uint16_t to_half(float v) {
        const uint32_t bits = static_cast<uint32_t>(bits_of(v)), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
        if (rest > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (rest >> 13 & 0x3ff));
        if (rest >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
        if (rest < 0x38800000) {  // below the normal halves: adding 0.5 rounds at their spacing
            return static_cast<uint16_t>(sign | static_cast<uint32_t>(bits_of(float_of(rest) + 0.5f) - 0x3f000000));
        }
        return static_cast<uint16_t>(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
    }
    static uint16_t to_bfloat(float v) {
        const uint32_t bits = static_cast<uint32_t>(bits_of(v));
        if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
        return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};

}  // namespace
