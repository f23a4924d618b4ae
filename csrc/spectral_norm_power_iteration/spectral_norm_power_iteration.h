// What the CPU and the CUDA binding of spectral_norm_power_iteration_ share: what they refuse.
#pragma once

#include "../common/matrices.h"

namespace distgan {

inline std::vector<VectorOffsets> check_power_iteration(const std::vector<Tensor>& weights, const Tensor& u,
                                                        const Tensor& v, int64_t iterations, double eps) {
    require(iterations >= 0, "iterations is ", iterations, ", but it has to be 0 (only measure) or more.");
    require(eps > 0, "eps is ", eps, ", but it has to be positive: it is the smallest norm a matrix is taken to have.");
    return check_layers(weights, u, v, iterations > 0);
}

}  // namespace distgan
