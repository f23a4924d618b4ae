#include "../common/tasks.h"
#include "../common/vectors.h"
#include "spectral_norm_scale.h"

namespace distgan {
namespace {

constexpr int64_t ELEMENTS_PER_TASK = 32 * 1024;

// Some elements of one layer, consecutive in memory.
struct Task {
    int64_t layer, begin, length;
};

std::vector<Task> tasks_of(const std::vector<Tensor>& weights) {
    std::vector<Task> tasks;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
        const int64_t num_elements = weights[layer].numel();
        for (int64_t begin = 0; begin < num_elements; begin += ELEMENTS_PER_TASK) {
            tasks.push_back({int64_t(layer), begin, smaller(ELEMENTS_PER_TASK, num_elements - begin)});
        }
    }
    return tasks;
}

template <class Out, class In>
DISTGAN_CLONES void scale_elements(void* to, const void* from, const Task& task, float factor, bool streamed) {
    scale(static_cast<Out*>(to) + task.begin, static_cast<const In*>(from) + task.begin, factor, task.length, streamed);
}

std::vector<Tensor> spectral_norm_scale_cpu(const std::vector<Tensor> given, const Tensor u, const Tensor v,
                                            const Tensor sigma, ScalarType dtype) {
    check_scale(given, u, v, sigma);
    require_output_dtype(dtype);
    const std::vector<Tensor> weights = dense(given);
    std::vector<Tensor> results;
    results.reserve(weights.size());
    for (const Tensor& weight : weights) results.push_back(empty_in_layout_of(weight, dtype));
    const auto* norms = static_cast<const float*>(sigma.data_ptr());
    const std::vector<Task> tasks = tasks_of(weights);
    std::vector<void*> to;
    for (const Tensor& result : results) to.push_back(result.data_ptr());
    const int64_t num_elements = total_elements(weights);
    const bool streamed =
        is_streamed(num_elements * int64_t(dtype == ScalarType::Float ? sizeof(float) : sizeof(BFloat16)));
    for_each_task(int64_t(tasks.size()), num_elements, [&](int64_t number) {
        const Task& task = tasks[number];
        const bool from_fp32 = weights[task.layer].scalar_type() == ScalarType::Float,
                   to_fp32 = dtype == ScalarType::Float;
        const auto run = to_fp32 ? (from_fp32 ? scale_elements<float, float> : scale_elements<float, BFloat16>)
                                 : (from_fp32 ? scale_elements<BFloat16, float> : scale_elements<BFloat16, BFloat16>);
        run(to[task.layer], weights[task.layer].data_ptr(), task, 1 / norms[task.layer], streamed);
    });
    return results;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("spectral_norm_scale", TORCH_BOX(&distgan::spectral_norm_scale_cpu));
}
