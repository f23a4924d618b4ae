#include "../common/tasks.h"
#include "../common/vectors.h"
#include "spectral_norm_scale.h"

namespace distgan {
namespace {

constexpr int64_t ELEMENTS_PER_TASK = 32 * 1024;

// Some rows of one layer; weight, gradient and result lie alike.
struct Task {
    const Matrix* matrix;
    const void *weights, *gradients;
    void* results;
    const float *u, *v;
    float sigma;
    bool weights_are_fp32, gradients_are_fp32;
    int64_t layer, first_row, num_rows;
};

// Calls `function(offset, row, column, length)` for every stretch of the task's elements that is contiguous in memory.
template <class Function>
DISTGAN_INLINE void for_each_stretch(const Task& task, const Function& function) {
    const Matrix& matrix = *task.matrix;
    for (int64_t row = task.first_row; row < task.first_row + task.num_rows; ++row) {
        if (matrix.has_contiguous_rows()) {
            function(row * matrix.row_stride, row, 0, matrix.columns);
            continue;
        }
        for (int64_t column = 0; column < matrix.columns; column += matrix.inner_stride == 1 ? matrix.inner_size : 1) {
            const int64_t outer = column / matrix.inner_size, inner = column % matrix.inner_size;
            const int64_t offset = row * matrix.row_stride + outer * matrix.outer_stride + inner * matrix.inner_stride;
            function(offset, row, column, matrix.inner_stride == 1 ? matrix.inner_size : 1);
        }
    }
}

template <class Weight, class Gradient>
DISTGAN_INLINE double dot(const Task& task) {
    Lanes sums = {};
    float rest = 0;
    for_each_stretch(task, [&](int64_t offset, int64_t, int64_t, int64_t length) __attribute__((always_inline)) {
        const Weight* weights = static_cast<const Weight*>(task.weights) + offset;
        const Gradient* gradients = static_cast<const Gradient*>(task.gradients) + offset;
        int64_t position = 0;
        for (; position + LANES <= length; position += LANES) {
            sums += load(weights + position) * load(gradients + position);
        }
        for (; position < length; ++position) rest += to_float(weights[position]) * to_float(gradients[position]);
    });
    return double(sum(sums)) + rest;
}

// result = gradient / sigma - slope * u v^T, with slope = <gradient, weight> / sigma^2.
template <class Weight, class Gradient>
DISTGAN_INLINE void update(const Task& task, double product, bool streamed) {
    const float scale = 1 / task.sigma;
    const auto slope = float(product / (double(task.sigma) * task.sigma));
    for_each_stretch(
        task, [&](int64_t offset, int64_t row, int64_t column, int64_t length) __attribute__((always_inline)) {
            const Gradient* gradients = static_cast<const Gradient*>(task.gradients) + offset;
            Weight* results = static_cast<Weight*>(task.results) + offset;
            const float* v = task.v + column;
            const float factor = slope * task.u[row];
            const bool past_caches = streamed && can_stream(results);
            int64_t position = 0;
            for (; position + LANES <= length; position += LANES) {
                const Lanes result = load(gradients + position) * scale - load(v + position) * factor;
                store(results + position, result, past_caches);
            }
            for (; position < length; ++position) {
                results[position] = from_float<Weight>(to_float(gradients[position]) * scale - v[position] * factor);
            }
        });
}

DISTGAN_CLONES double dot_of(const Task& task) {
    if (task.weights_are_fp32) return task.gradients_are_fp32 ? dot<float, float>(task) : dot<float, BFloat16>(task);
    return task.gradients_are_fp32 ? dot<BFloat16, float>(task) : dot<BFloat16, BFloat16>(task);
}

DISTGAN_CLONES void update_of(const Task& task, double product, bool streamed) {
    if (task.weights_are_fp32) {
        task.gradients_are_fp32 ? update<float, float>(task, product, streamed)
                                : update<float, BFloat16>(task, product, streamed);
    } else {
        task.gradients_are_fp32 ? update<BFloat16, float>(task, product, streamed)
                                : update<BFloat16, BFloat16>(task, product, streamed);
    }
}

std::vector<Tensor> spectral_norm_scale_backward_cpu(const std::vector<Tensor> given_gradients,
                                                     const std::vector<Tensor> given, const Tensor u, const Tensor v,
                                                     const Tensor sigma) {
    const std::vector<VectorOffsets> offsets = check_scale(given, u, v, sigma);
    std::vector<Matrix> matrices;
    const std::vector<Tensor> weights = dense_matrices(given, matrices);
    const std::vector<Tensor> gradients = laid_out_alike(given_gradients, weights);
    std::vector<Tensor> results;
    std::vector<Task> tasks;
    std::vector<int64_t> first_task;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
        results.push_back(empty_in_layout_of(weights[layer], weights[layer].scalar_type()));
        first_task.push_back(int64_t(tasks.size()));
        const Matrix& matrix = matrices[layer];
        const int64_t rows = larger(int64_t(1), ELEMENTS_PER_TASK / larger(matrix.columns, int64_t(1)));
        for (int64_t row = 0; row < matrix.rows; row += rows) {
            tasks.push_back({&matrix, weights[layer].data_ptr(), gradients[layer].data_ptr(), results[layer].data_ptr(),
                             static_cast<const float*>(u.data_ptr()) + offsets[layer].u,
                             static_cast<const float*>(v.data_ptr()) + offsets[layer].v,
                             static_cast<const float*>(sigma.data_ptr())[layer],
                             weights[layer].scalar_type() == ScalarType::Float,
                             gradients[layer].scalar_type() == ScalarType::Float, int64_t(layer), row,
                             smaller(rows, matrix.rows - row)});
        }
    }
    first_task.push_back(int64_t(tasks.size()));
    const auto num_tasks = int64_t(tasks.size()), num_layers = int64_t(weights.size());
    auto is_alone = [&](int64_t layer) { return first_task[layer + 1] - first_task[layer] == 1; };
    // <gradient, weight> of a whole layer comes before its first update; a layer of one task needs nobody else's part.
    std::vector<double> products(num_tasks);
    const bool streamed = is_streamed(total_elements(weights) * int64_t(sizeof(float)));
    for_each_task(num_tasks, total_elements(weights), [&](int64_t number) {
        products[number] = dot_of(tasks[number]);
        if (is_alone(tasks[number].layer)) update_of(tasks[number], products[number], streamed);
    });
    std::vector<double> layer_products(num_layers);
    std::vector<int64_t> others;  // from the last to the first: what was read last is still in the cache
    int64_t num_elements = 0;
    for (int64_t layer = num_layers - 1; layer >= 0; --layer) {
        if (is_alone(layer)) continue;
        for (int64_t part = first_task[layer]; part < first_task[layer + 1]; ++part)
            layer_products[layer] += products[part];
        for (int64_t part = first_task[layer + 1] - 1; part >= first_task[layer]; --part) others.push_back(part);
        num_elements += weights[layer].numel();
    }
    for_each_task(int64_t(others.size()), num_elements, [&](int64_t position) {
        const Task& task = tasks[others[position]];
        update_of(task, layer_products[task.layer], streamed);
    });
    return results;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("spectral_norm_scale_backward", TORCH_BOX(&distgan::spectral_norm_scale_backward_cpu));
}
