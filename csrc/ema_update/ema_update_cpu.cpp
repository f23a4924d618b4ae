#include "../common/tasks.h"
#include "../common/vectors.h"
#include "ema_update.h"

namespace distgan {
namespace {

constexpr int64_t ELEMENTS_PER_TASK = 16384;

struct Task {
    float* average;
    const void* weight;
    int64_t length;
    bool is_fp32;
};

template <class Weight>
DISTGAN_INLINE void blend(float* average, const Weight* weight, int64_t length, float share) {
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        const Lanes old = load(average + position);
        store(average + position, old + (load(weight + position) - old) * share);
    }
    for (; position < length; ++position) average[position] += share * (to_float(weight[position]) - average[position]);
}

DISTGAN_CLONES void run(const Task& task, float share) {
    if (task.is_fp32) {
        blend(task.average, static_cast<const float*>(task.weight), task.length, share);
    } else {
        blend(task.average, static_cast<const BFloat16*>(task.weight), task.length, share);
    }
}

void ema_update_cpu(const std::vector<Tensor> average, const std::vector<Tensor> weights, double decay) {
    check_ema_update(average, weights, decay);
    std::vector<Task> tasks;
    for (size_t layer = 0; layer < average.size(); ++layer) {
        const bool is_fp32 = weights[layer].scalar_type() == ScalarType::Float;
        const int64_t num_elements = average[layer].numel();
        auto* to = static_cast<float*>(average[layer].data_ptr());
        const auto* from = static_cast<const char*>(weights[layer].data_ptr());
        for (int64_t begin = 0; begin < num_elements; begin += ELEMENTS_PER_TASK) {
            const int64_t length = smaller(num_elements - begin, ELEMENTS_PER_TASK);
            tasks.push_back({to + begin, from + begin * (is_fp32 ? sizeof(float) : sizeof(BFloat16)), length, is_fp32});
        }
    }
    const auto share = float(1 - decay);
    for_each_task(int64_t(tasks.size()), total_elements(average), [&](int64_t number) { run(tasks[number], share); });
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) { library.impl("ema_update", TORCH_BOX(&distgan::ema_update_cpu)); }
