#include "../common/cuda_tensors.h"
#include "spectral_norm_scale.cuh"
#include "spectral_norm_scale.h"

namespace distgan {
namespace {

namespace op = spectral_norm_scale;

std::vector<Tensor> spectral_norm_scale_backward_cuda(const std::vector<Tensor> given_gradients,
                                                      const std::vector<Tensor> given, const Tensor u, const Tensor v,
                                                      const Tensor sigma) {
    const std::vector<VectorOffsets> offsets = check_scale(given, u, v, sigma);
    const OnDeviceOf device(given[0]);
    std::vector<Matrix> matrices;
    const std::vector<Tensor> weights = dense_matrices(given, matrices);
    const std::vector<Tensor> gradients = laid_out_alike(given_gradients, weights);
    std::vector<Tensor> results;
    uint32_t most_blocks = 1;
    for (const Tensor& weight : weights) {
        results.push_back(empty_in_layout_of(weight, weight.scalar_type()));
        most_blocks += ceil_div(uint32_t(weight.numel()), op::ELEMENTS_PER_BLOCK);
    }
    const auto num_layers = int64_t(weights.size());
    const Tensor parts = empty(u, {most_blocks}, ScalarType::Double),
                 layers = empty(u, {num_layers}, ScalarType::Double);
    const Tensor finished = empty(u, {num_layers}, ScalarType::Int);
    fill_with_zeros(finished.data_ptr(), num_layers * sizeof(unsigned), device.stream);
    const op::Products products{static_cast<double*>(parts.data_ptr()), static_cast<double*>(layers.data_ptr()),
                                static_cast<unsigned*>(finished.data_ptr())};

    for (const ScalarType weight_dtype : {ScalarType::Float, ScalarType::BFloat16}) {
        for (const ScalarType gradient_dtype : {ScalarType::Float, ScalarType::BFloat16}) {
            TableFiller<op::BackwardEntry> filler([&](const Table<op::BackwardEntry>& table, unsigned num_blocks) {
                with_type(weight_dtype, [&](auto weight) {
                    with_type(gradient_dtype, [&](auto gradient) {
                        using Weight = decltype(weight);
                        using Gradient = decltype(gradient);
                        const size_t sums = op::THREADS / WARP * sizeof(double);
                        launch(op::dot<Weight, Gradient>, num_blocks, op::THREADS, sums, device.stream, table,
                               products);
                        launch(op::update<Weight, Gradient>, num_blocks, op::THREADS, 0, device.stream, table,
                               static_cast<const double*>(products.layers), static_cast<const float*>(u.data_ptr()),
                               static_cast<const float*>(v.data_ptr()), static_cast<const float*>(sigma.data_ptr()));
                    });
                });
            });
            for (size_t layer = 0; layer < weights.size(); ++layer) {
                if (weights[layer].scalar_type() != weight_dtype || gradients[layer].scalar_type() != gradient_dtype)
                    continue;
                if (weights[layer].numel() == 0) continue;
                const Matrix& matrix = matrices[layer];
                const auto num_elements = uint32_t(weights[layer].numel());
                const uint32_t num_blocks = ceil_div(num_elements, op::ELEMENTS_PER_BLOCK);
                op::BackwardEntry entry{};
                entry.weight = weights[layer].data_ptr();
                entry.gradient = gradients[layer].data_ptr();
                entry.result = results[layer].data_ptr();
                entry.row_stride = matrix.row_stride;
                entry.outer_stride = int32_t(matrix.outer_stride);
                entry.inner_stride = int32_t(matrix.inner_stride);
                entry.inner_size = uint32_t(matrix.inner_size);
                entry.columns = uint32_t(matrix.columns);
                entry.num_elements = num_elements;
                entry.u = uint32_t(offsets[layer].u);
                entry.v = uint32_t(offsets[layer].v);
                entry.layer = uint32_t(layer);
                entry.num_blocks = num_blocks;
                filler.add(entry, num_blocks);
            }
            filler.flush();
        }
    }
    return results;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("spectral_norm_scale_backward", TORCH_BOX(&distgan::spectral_norm_scale_backward_cuda));
}
