#include "../common/cuda_tensors.h"
#include "spectral_norm_power_iteration.cuh"
#include "spectral_norm_power_iteration.h"

namespace distgan {
namespace {

namespace op = spectral_norm_power_iteration;

Tensor spectral_norm_power_iteration_cuda(const std::vector<Tensor> weights, Tensor u, Tensor v, int64_t iterations,
                                          double eps) {
    const std::vector<VectorOffsets> offsets = check_power_iteration(weights, u, v, iterations, eps);
    const OnDeviceOf device(weights[0]);
    std::vector<Tensor> copies;
    std::vector<op::Entry> entries;
    uint64_t partials = 0;
    const auto total = uint64_t(total_elements(weights));
    uint32_t num_blocks = 0;
    size_t shared_bytes = 0;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
        const Matrix matrix = as_matrix(weights[layer], copies);
        op::Entry entry{};
        entry.weight = matrix.elements;
        entry.row_stride = matrix.row_stride;
        entry.outer_stride = int32_t(matrix.outer_stride);
        entry.inner_stride = int32_t(matrix.inner_stride);
        entry.inner_size = uint32_t(larger(matrix.inner_size, int64_t(1)));
        entry.rows = uint32_t(matrix.rows);
        entry.columns = uint32_t(matrix.columns);
        entry.u = uint32_t(offsets[layer].u);
        entry.v = uint32_t(offsets[layer].v);
        entry.layer = uint32_t(layer);
        entry.partial = partials;
        op::plan(entry, total);
        partials += uint64_t(entry.num_blocks) * entry.columns;
        num_blocks += entry.num_blocks;
        shared_bytes = larger(shared_bytes, op::shared_bytes(entry));
        entries.push_back(entry);
    }

    const auto num_layers = int64_t(weights.size());
    const Tensor sigma = empty(u, {num_layers}, ScalarType::Float);
    const Tensor y = empty(u, {u.numel()}, ScalarType::Float), z = empty(u, {int64_t(partials)}, ScalarType::Float);
    const Tensor squares = empty(u, {num_blocks}, ScalarType::Double),
                 finished = empty(u, {num_layers}, ScalarType::Int);
    const op::Scratch scratch{static_cast<float*>(y.data_ptr()), static_cast<float*>(z.data_ptr()),
                              static_cast<double*>(squares.data_ptr()), static_cast<unsigned*>(finished.data_ptr())};
    for (int64_t iteration = 0; iteration < larger(iterations, int64_t(1)); ++iteration) {
        fill_with_zeros(finished.data_ptr(), num_layers * sizeof(unsigned), device.stream);
        for (const ScalarType dtype :
             {ScalarType::Float, ScalarType::BFloat16}) {  // a launch takes weights of one dtype
            TableFiller<op::Entry> filler([&](const Table<op::Entry>& table, unsigned blocks) {
                with_type(dtype, [&](auto weight) {
                    using Weight = decltype(weight);
                    launch(iterations ? op::kernel<Weight, true> : op::kernel<Weight, false>, blocks, op::THREADS,
                           shared_bytes, device.stream, table, scratch, static_cast<float*>(u.data_ptr()),
                           static_cast<float*>(v.data_ptr()), static_cast<float*>(sigma.data_ptr()), float(eps));
                });
            });
            for (size_t layer = 0; layer < weights.size(); ++layer) {
                if (weights[layer].scalar_type() == dtype) filler.add(entries[layer], entries[layer].num_blocks);
            }
            filler.flush();
        }
    }
    return sigma;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("spectral_norm_power_iteration_", TORCH_BOX(&distgan::spectral_norm_power_iteration_cuda));
}
