// What the CPU and the CUDA bindings of spectral_norm_scale and its backward share: what they refuse, and how their
// results lie.
#pragma once

#include "../common/matrices.h"

namespace distgan {

inline std::vector<VectorOffsets> check_scale(const std::vector<Tensor>& weights, const Tensor& u, const Tensor& v,
                                              const Tensor& sigma) {
    std::vector<VectorOffsets> offsets = check_layers(weights, u, v, false);
    require_fp32("sigma", sigma);
    require_same_device("sigma", sigma, "weights[0]", weights[0]);
    require(sigma.dim() == 1 && size_t(sigma.numel()) == weights.size(), "sigma is ", shape(sigma), ", but there are ",
            weights.size(), " weights; it has to be [", weights.size(), "].");
    require_contiguous("sigma", sigma);
    return offsets;
}

inline void require_output_dtype(ScalarType dtype) {
    require(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, "dtype is ", name(dtype),
            ", but it has to be float32 or bfloat16.");
}

// The weights, those with gaps in their memory copied.
inline std::vector<Tensor> dense(const std::vector<Tensor>& weights) {
    std::vector<Tensor> result;
    result.reserve(weights.size());
    for (const Tensor& weight : weights)
        result.push_back(is_dense(weight) ? weight : torch::stable::contiguous(weight));
    return result;
}

// The same for a use as matrices, which may need copies of more.
inline std::vector<Tensor> dense_matrices(const std::vector<Tensor>& given, std::vector<Matrix>& matrices) {
    std::vector<Tensor> weights = dense(given);
    for (Tensor& weight : weights) {
        std::vector<Tensor> copies;
        matrices.push_back(as_matrix(weight, copies));
        if (!copies.empty()) weight = copies.back();
    }
    return weights;
}

// The gradients, each in the layout of its weight.
inline std::vector<Tensor> laid_out_alike(const std::vector<Tensor>& gradients, const std::vector<Tensor>& weights) {
    require(gradients.size() == weights.size(), "gradients has ", gradients.size(), " tensors and weights ",
            weights.size(), "; pass as many of each.");
    std::vector<Tensor> result;
    result.reserve(gradients.size());
    for (size_t layer = 0; layer < gradients.size(); ++layer) {
        const Tensor& gradient = gradients[layer];
        const Argument what("gradients", layer);
        require_fp32_or_bf16(what, gradient);
        require_same_device(what, gradient, "weights[0]", weights[0]);
        require(have_same_shape(gradient, weights[layer]), what, " is ", shape(gradient), ", but ",
                Argument("weights", layer), " is ", shape(weights[layer]), "; they need one shape.");
        result.push_back(in_layout_of(weights[layer], gradient));
    }
    return result;
}

}  // namespace distgan
