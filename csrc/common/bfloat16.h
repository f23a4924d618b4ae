// bfloat16 as bits, the same on the host, on the device and in the emulator.
#pragma once

#include "portable.h"

namespace distgan {

struct BFloat16 {
    uint16_t bits;
};

inline DISTGAN_HOST_DEVICE float to_float(float value) { return value; }

inline DISTGAN_HOST_DEVICE float to_float(BFloat16 value) { return bit_cast<float>(uint32_t(value.bits) << 16); }

template <class T>
inline DISTGAN_HOST_DEVICE T from_float(float value);

template <>
inline DISTGAN_HOST_DEVICE float from_float<float>(float value) {
    return value;
}

// To the nearest, ties to even, as torch does.
template <>
inline DISTGAN_HOST_DEVICE BFloat16 from_float<BFloat16>(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    if (value != value) return {0x7FC0};
    return {uint16_t((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace distgan
