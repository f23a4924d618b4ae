#include "../common/cuda_tensors.h"
#include "ema_update.cuh"
#include "ema_update.h"

namespace distgan {
namespace {

using ema_update::Entry;

void ema_update_cuda(const std::vector<Tensor> average, const std::vector<Tensor> weights, double decay) {
    check_ema_update(average, weights, decay);
    if (average.empty()) return;
    const OnDeviceOf device(average[0]);
    for (const ScalarType dtype : {ScalarType::Float, ScalarType::BFloat16}) {  // a launch takes weights of one dtype
        TableFiller<Entry> filler([&](const Table<Entry>& table, unsigned num_blocks) {
            with_type(dtype, [&](auto weight) {
                launch(ema_update::kernel<decltype(weight)>, num_blocks, ema_update::THREADS, 0, device.stream, table,
                       float(1 - decay));
            });
        });
        for (size_t layer = 0; layer < average.size(); ++layer) {
            if (weights[layer].scalar_type() != dtype || weights[layer].numel() == 0) continue;
            const auto num_elements = uint32_t(average[layer].numel());
            filler.add({static_cast<float*>(average[layer].data_ptr()), weights[layer].data_ptr(), num_elements, 0},
                       ceil_div(num_elements, ema_update::ELEMENTS_PER_BLOCK));
        }
        filler.flush();
    }
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("ema_update", TORCH_BOX(&distgan::ema_update_cuda));
}
