#include "../common/cuda_tensors.h"
#include "spectral_norm_scale.cuh"
#include "spectral_norm_scale.h"

namespace distgan {
namespace {

namespace op = spectral_norm_scale;

std::vector<Tensor> spectral_norm_scale_cuda(const std::vector<Tensor> given, const Tensor u, const Tensor v,
                                             const Tensor sigma, ScalarType dtype) {
    check_scale(given, u, v, sigma);
    require_output_dtype(dtype);
    const OnDeviceOf device(given[0]);
    const std::vector<Tensor> weights = dense(given);
    std::vector<Tensor> results;
    for (const Tensor& weight : weights) results.push_back(empty_in_layout_of(weight, dtype));
    for (const ScalarType weight_dtype : {ScalarType::Float, ScalarType::BFloat16}) {
        TableFiller<op::ScaleEntry> filler([&](const Table<op::ScaleEntry>& table, unsigned num_blocks) {
            with_type(weight_dtype, [&](auto weight) {
                with_type(dtype, [&](auto result) {
                    const auto kernel = op::scale<decltype(weight), decltype(result)>;
                    launch(kernel, num_blocks, op::THREADS, 0, device.stream, table,
                           static_cast<const float*>(sigma.data_ptr()));
                });
            });
        });
        for (size_t layer = 0; layer < weights.size(); ++layer) {
            if (weights[layer].scalar_type() != weight_dtype || weights[layer].numel() == 0) continue;
            const auto num_elements = uint32_t(weights[layer].numel());
            filler.add({weights[layer].data_ptr(), results[layer].data_ptr(), num_elements, uint32_t(layer), 0},
                       ceil_div(num_elements, op::ELEMENTS_PER_BLOCK));
        }
        filler.flush();
    }
    return results;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("spectral_norm_scale", TORCH_BOX(&distgan::spectral_norm_scale_cuda));
}
