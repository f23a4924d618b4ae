// What the CPU and the CUDA binding of gradient_penalty_interpolate share: what they refuse, and how images lie.
#pragma once

#include "../common/samples.h"
#include "formulas.h"

namespace distgan {

inline void check_interpolate(const Tensor& real, const Tensor& fake, int64_t offset, int64_t mode) {
    require(real.scalar_type() == ScalarType::Byte || is_fp32_or_bf16(real), "real is ", name(real.scalar_type()),
            ", but this operator takes uint8, float32 or bfloat16.");
    require_fp32_or_bf16("fake", fake);
    require_same_device("fake", fake, "real", real);
    require(real.dim() >= 1, "real has no dimension; dimension 0 has to count the images.");
    require(have_same_shape(real, fake), "real is ", shape(real), " and fake is ", shape(fake),
            "; they need one shape.");
    require_countable("real", real);
    require(offset >= 0, "offset is ", offset, ", but it is the number of the first image, 0 or more.");
    require(mode >= 0 && mode <= 2, "mode is ", mode, "; it has to be 0 (mixture), 1 (real) or 2 (fake).");
}

// The images and the result, in one memory layout. What the mode does not read is not copied.
struct Images {
    Tensor real, fake, result;

    Images(const Tensor& real_images, const Tensor& fake_images, Mode mode) : real(real_images), fake(fake_images) {
        Tensor& leader = mode == Mode::REAL ? real : fake;
        leader = with_dense_samples(leader);
        if (mode == Mode::MIXTURE) real = in_layout_of(fake, real);
        result = empty_in_layout_of(leader, ScalarType::Float);
    }
};

}  // namespace distgan
