// What the CPU and the CUDA bindings of gradient_penalty and its derivatives share: what they refuse.
#pragma once

#include "../common/samples.h"

namespace distgan {

inline void check_gradients(const Tensor& gradients) {
    require(gradients.dim() >= 1, "gradients has no dimension; dimension 0 has to count the samples.");
    require_fp32_or_bf16("gradients", gradients);
    require_countable("gradients", gradients);
}

inline void check_backward(const Tensor& upstream, const Tensor& gradients, const Tensor& norms) {
    check_gradients(gradients);
    require_fp32("upstream", upstream);
    require_fp32("norms", norms);
    require_same_device("upstream", upstream, "gradients", gradients);
    require_same_device("norms", norms, "gradients", gradients);
    require(upstream.dim() == 0, "upstream is ", shape(upstream),
            ", but it is the derivative in the penalty, a scalar.");
    require(norms.dim() == 1 && norms.size(0) == gradients.size(0), "norms is ", shape(norms), ", but there are ",
            gradients.size(0), " samples; it has to be [", gradients.size(0), "].");
}

inline void check_backward_backward(const Tensor& upstream, const Tensor& gradients, const Tensor& norms,
                                    const Tensor& directions) {
    check_backward(upstream, gradients, norms);
    require(directions.scalar_type() == gradients.scalar_type(), "directions is ", name(directions.scalar_type()),
            " and gradients is ", name(gradients.scalar_type()), "; they need one dtype.");
    require_same_device("directions", directions, "gradients", gradients);
    require(have_same_shape(directions, gradients), "directions is ", shape(directions), " and gradients is ",
            shape(gradients), "; they need one shape.");
}

}  // namespace distgan
