// What the same source needs to compile for the host, for the device and for the emulator.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define DISTGAN_HOST_DEVICE __host__ __device__
#else
#define DISTGAN_HOST_DEVICE __attribute__((always_inline))
#endif

namespace distgan {

template <class To, class From>
inline DISTGAN_HOST_DEVICE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

template <class T>
inline DISTGAN_HOST_DEVICE constexpr T ceil_div(T numerator, T denominator) {
    return (numerator + denominator - 1) / denominator;
}

template <class T>
inline DISTGAN_HOST_DEVICE constexpr T smaller(T a, T b) {
    return b < a ? b : a;
}

template <class T>
inline DISTGAN_HOST_DEVICE constexpr T larger(T a, T b) {
    return a < b ? b : a;
}

}  // namespace distgan
