// What an image of gradient_penalty_interpolate is, element by element: the same bits on every device, so no product
// and sum may be contracted to a fused multiply-add.
#pragma once

#include <type_traits>

#include "../common/bfloat16.h"
#include "../common/philox.h"

namespace distgan {

// Which images a penalty is taken at. The numbers are those of distgan/ops/gradient_penalty_interpolate.py.
enum class Mode : int64_t { MIXTURE = 0, REAL = 1, FAKE = 2 };

// The share of the real image in mixture number `number`.
inline DISTGAN_HOST_DEVICE float share_of_real(uint64_t seed, uint64_t number) {
    return uniform(
        philox({uint32_t(number), uint32_t(number >> 32), 0, 0}, {uint32_t(seed), uint32_t(seed >> 32)}).words[0]);
}

constexpr float PER_BYTE = float(2.0 / 255);

// The CPU's compiler is told for all files (csrc/build.py); CUDA's has to be told here.
inline DISTGAN_HOST_DEVICE float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

// uint8 [0, 255] -> [-1, 1]; other dtypes as they are. `value` is the element as a float.
template <class T>
inline DISTGAN_HOST_DEVICE float normalised(float value) {
    return std::is_same_v<T, uint8_t> ? rounded_product(value, PER_BYTE) - 1 : value;
}

inline DISTGAN_HOST_DEVICE float mixed(float share, float real, float fake) {
    return rounded_product(share, real) + rounded_product(1 - share, fake);
}

}  // namespace distgan
