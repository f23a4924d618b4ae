// Sixteen floats as one value, for the CPU operators. The lanes are part of what is computed: however wide the
// machine's own vectors are, a sum over lanes has the same order, so the results have the same bits on every machine
// (nothing is contracted to a fused multiply-add either: csrc/build.py).
#pragma once

#include "bfloat16.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// One function compiled for two generations of x86; the loader picks. Elsewhere the compiler's default serves. A third
// one with vectors of 64 bytes gains nothing: these operators wait for memory.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DISTGAN_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define DISTGAN_CLONES
#endif

#define DISTGAN_INLINE inline __attribute__((always_inline))

namespace distgan {

constexpr int64_t LANES = 16;
constexpr int64_t HALF = LANES / 2;  // what a register of x86-64-v3 holds; wider ones g++ takes apart through memory
typedef float HalfLanes __attribute__((vector_size(HALF * sizeof(float))));
typedef uint32_t HalfBits __attribute__((vector_size(HALF * sizeof(uint32_t))));
typedef int32_t HalfIntegers __attribute__((vector_size(HALF * sizeof(int32_t))));
typedef uint16_t HalfShorts __attribute__((vector_size(HALF * sizeof(uint16_t))));
typedef uint8_t HalfBytes __attribute__((vector_size(HALF * sizeof(uint8_t))));

struct Lanes {
    HalfLanes low, high;
};

DISTGAN_INLINE Lanes operator+(const Lanes& a, const Lanes& b) { return {a.low + b.low, a.high + b.high}; }
DISTGAN_INLINE Lanes operator-(const Lanes& a, const Lanes& b) { return {a.low - b.low, a.high - b.high}; }
DISTGAN_INLINE Lanes operator*(const Lanes& a, const Lanes& b) { return {a.low * b.low, a.high * b.high}; }
DISTGAN_INLINE Lanes operator*(const Lanes& a, float b) { return {a.low * b, a.high * b}; }
DISTGAN_INLINE Lanes operator-(const Lanes& a, float b) { return {a.low - b, a.high - b}; }
DISTGAN_INLINE void operator+=(Lanes& a, const Lanes& b) { a = a + b; }

DISTGAN_INLINE void load(HalfLanes& lanes, const float* from) { memcpy(&lanes, from, sizeof(lanes)); }

DISTGAN_INLINE void load(HalfLanes& lanes, const BFloat16* from) {
    HalfShorts upper;
    memcpy(&upper, from, sizeof(upper));
    lanes = (HalfLanes)(__builtin_convertvector(upper, HalfBits) << 16);
}

DISTGAN_INLINE void load(HalfLanes& lanes, const uint8_t* from) {
    HalfBytes bytes;
    memcpy(&bytes, from, sizeof(bytes));
    // Widened step by step and converted as signed integers: what g++ has instructions for. In one step it goes byte by
    // byte.
    const HalfBits bits = __builtin_convertvector(__builtin_convertvector(bytes, HalfShorts), HalfBits);
    lanes = __builtin_convertvector((HalfIntegers)bits, HalfLanes);
}

template <class T>
DISTGAN_INLINE Lanes load(const T* from) {
    Lanes lanes;
    load(lanes.low, from);
    load(lanes.high, from + HALF);
    return lanes;
}

DISTGAN_INLINE void store(float* to, const HalfLanes& lanes) { memcpy(to, &lanes, sizeof(lanes)); }

// To the nearest, ties to even; NaN stays NaN.
DISTGAN_INLINE void store(BFloat16* to, const HalfLanes& lanes) {
    const auto bits = (HalfBits)lanes;
    const HalfBits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const auto is_nan = (HalfBits)(lanes != lanes);
    const HalfShorts upper = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), HalfShorts);
    memcpy(to, &upper, sizeof(upper));
}

template <class T>
DISTGAN_INLINE void store(T* to, const Lanes& lanes) {
    store(to, lanes.low);
    store(to + HALF, lanes.high);
}

// Whether results of so many bytes are written past the caches: whoever reads them would not find them there, and a
// line that is written whole is then not read first.
constexpr bool is_streamed(int64_t bytes) { return bytes > (16 << 20); }

// Only where it may be: `to` has to be aligned.
DISTGAN_INLINE bool can_stream(const void* to) { return reinterpret_cast<uintptr_t>(to) % 16 == 0; }

// `streamed`: past the caches; the thread has to `finish_streams` (tasks.h) before others read.
template <class T>
DISTGAN_INLINE void store(T* to, const Lanes& lanes, bool streamed) {
#ifdef __SSE2__
    if (streamed) {
        alignas(16) T values[LANES];
        store(values, lanes);
        for (int64_t position = 0; position < LANES; position += 16 / sizeof(T)) {
            const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(values + position));
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + position), bits);
        }
        return;
    }
#endif
    store(to, lanes);
}

DISTGAN_INLINE float sum(const Lanes& lanes) {
    float pairs[HALF];
    store(pairs, lanes.low + lanes.high);
    for (int64_t distance = HALF / 2; distance > 0; distance /= 2) {
        for (int64_t lane = 0; lane < distance; ++lane) pairs[lane] += pairs[lane + distance];
    }
    return pairs[0];
}

template <class To, class From>
DISTGAN_INLINE void scale(To* to, const From* from, float factor, int64_t length, bool streamed) {
    streamed = streamed && can_stream(to);
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES)
        store(to + position, load(from + position) * factor, streamed);
    for (; position < length; ++position) to[position] = from_float<To>(to_float(from[position]) * factor);
}

}  // namespace distgan
