// Sixteen floats as one value, for the CPU operators. The lanes are part of what is computed: however wide the
// machine's own vectors are, a sum over lanes has the same order, so the results have the same bits on every machine
// (nothing is contracted to a fused multiply-add either: csrc/build.py).
#pragma once

#include "bfloat16.h"

// One function compiled for several generations of x86; the loader picks. Elsewhere the compiler's default serves.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DISTGAN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DISTGAN_CLONES
#endif

#define DISTGAN_INLINE inline __attribute__((always_inline))

namespace distgan {

constexpr int64_t LANES = 16;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t BitLanes __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef int32_t IntegerLanes __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint16_t ShortLanes __attribute__((vector_size(LANES * sizeof(uint16_t))));
typedef uint8_t ByteLanes __attribute__((vector_size(LANES * sizeof(uint8_t))));

// References, not values: a 64-byte argument passed by value has another ABI for each generation of processors.
DISTGAN_INLINE void load(Lanes& lanes, const float* from) { memcpy(&lanes, from, sizeof(lanes)); }

DISTGAN_INLINE void load(Lanes& lanes, const BFloat16* from) {
    ShortLanes halves;
    memcpy(&halves, from, sizeof(halves));
    const BitLanes bits = __builtin_convertvector(halves, BitLanes) << 16;
    memcpy(&lanes, &bits, sizeof(lanes));
}

DISTGAN_INLINE void load(Lanes& lanes, const uint8_t* from) {
    ByteLanes bytes;
    memcpy(&bytes, from, sizeof(bytes));
    // Widened step by step and converted as signed integers: what g++ has instructions for. In one step it goes byte by
    // byte.
    const BitLanes bits = __builtin_convertvector(__builtin_convertvector(bytes, ShortLanes), BitLanes);
    lanes = __builtin_convertvector((IntegerLanes)bits, Lanes);
}

DISTGAN_INLINE void store(float* to, const Lanes& lanes) { memcpy(to, &lanes, sizeof(lanes)); }

// To the nearest, ties to even; NaN stays NaN.
DISTGAN_INLINE void store(BFloat16* to, const Lanes& lanes) {
    BitLanes bits;
    memcpy(&bits, &lanes, sizeof(bits));
    const BitLanes rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const BitLanes is_nan = (BitLanes)(lanes != lanes);
    const ShortLanes halves = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), ShortLanes);
    memcpy(to, &halves, sizeof(halves));
}

DISTGAN_INLINE float sum(const Lanes& lanes) {
    float pairs[LANES];
    memcpy(pairs, &lanes, sizeof(pairs));
    for (int64_t distance = LANES / 2; distance > 0; distance /= 2) {
        for (int64_t lane = 0; lane < distance; ++lane) pairs[lane] += pairs[lane + distance];
    }
    return pairs[0];
}

template <class To, class From>
DISTGAN_INLINE void scale(To* to, const From* from, float factor, int64_t length) {
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        Lanes values;
        load(values, from + position);
        values *= factor;
        store(to + position, values);
    }
    for (; position < length; ++position) to[position] = from_float<To>(to_float(from[position]) * factor);
}

}  // namespace distgan
