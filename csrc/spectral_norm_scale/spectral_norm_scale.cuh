// Weights / sigma of all layers in one launch, and its backward in two: <gradient, weight> of every layer, then
// gradient / sigma - <gradient, weight> / sigma^2 * u v^T. Weight, gradient and result of a layer lie alike, without
// gaps.
#pragma once

#include "../common/device.cuh"

namespace distgan::spectral_norm_scale {

constexpr unsigned THREADS = 256;
constexpr unsigned ELEMENTS_PER_BLOCK = 8192;

struct ScaleEntry {
    const void* weight;
    void* result;
    uint32_t num_elements, layer, first_block;
};

template <class Weight, class Result>
__global__ void __launch_bounds__(THREADS) scale(const __grid_constant__ Table<ScaleEntry> table, const float* sigma) {
    const ScaleEntry& entry = table.entries[entry_of_block(table.entries, table.count, blockIdx.x)];
    const uint32_t begin = (blockIdx.x - entry.first_block) * ELEMENTS_PER_BLOCK;
    const uint32_t length = smaller(entry.num_elements - begin, ELEMENTS_PER_BLOCK);
    const Weight* weight = static_cast<const Weight*>(entry.weight) + begin;
    Result* result = static_cast<Result*>(entry.result) + begin;
    const float factor = 1 / sigma[entry.layer];
    for (uint32_t position = threadIdx.x * 4; position < length; position += THREADS * 4) {
        const uint32_t count = smaller(length - position, 4u);
        float values[4];
        load_four(values, weight + position, count);
        for (float& value : values) value *= factor;
        store_four(result + position, values, count);
    }
}

struct BackwardEntry {
    const void *weight, *gradient;
    void* result;
    int64_t row_stride;
    int32_t outer_stride, inner_stride;
    uint32_t inner_size, columns, num_elements;
    uint32_t u, v, layer;
    uint32_t first_block, num_blocks;
};

// Of each block its part of <gradient, weight>, and of each layer the whole; `finished` starts as zeros.
struct Products {
    double *parts, *layers;
    unsigned* finished;
};

template <class Weight, class Gradient>
__global__ void __launch_bounds__(THREADS)
    dot(const __grid_constant__ Table<BackwardEntry> table, const Products products) {
    const BackwardEntry& entry = table.entries[entry_of_block(table.entries, table.count, blockIdx.x)];
    const uint32_t begin = (blockIdx.x - entry.first_block) * ELEMENTS_PER_BLOCK;
    const uint32_t length = smaller(entry.num_elements - begin, ELEMENTS_PER_BLOCK);
    const Weight* weight = static_cast<const Weight*>(entry.weight) + begin;
    const Gradient* gradient = static_cast<const Gradient*>(entry.gradient) + begin;
    float sum = 0;
    for (uint32_t position = threadIdx.x * 4; position < length; position += THREADS * 4) {
        const uint32_t count = smaller(length - position, 4u);
        float weights[4], gradients[4];
        load_four(weights, weight + position, count);
        load_four(gradients, gradient + position, count);
        for (int element = 0; element < 4; ++element) sum += weights[element] * gradients[element];
    }
    auto* sums = shared_memory<double>();
    const double part = block_sum(double(sum), sums);
    if (threadIdx.x == 0) products.parts[blockIdx.x] = part;
    if (!is_last_to_finish(&products.finished[entry.layer], entry.num_blocks, reinterpret_cast<unsigned*>(sums)))
        return;
    double product = 0;
    for (uint32_t block = threadIdx.x; block < entry.num_blocks; block += THREADS)
        product += products.parts[entry.first_block + block];
    product = block_sum(product, sums);
    if (threadIdx.x == 0) products.layers[entry.layer] = product;
}

template <class Weight, class Gradient>
__global__ void __launch_bounds__(THREADS)
    update(const __grid_constant__ Table<BackwardEntry> table, const double* products, const float* u, const float* v,
           const float* sigma) {
    const BackwardEntry& entry = table.entries[entry_of_block(table.entries, table.count, blockIdx.x)];
    const uint32_t begin = (blockIdx.x - entry.first_block) * ELEMENTS_PER_BLOCK;
    const uint32_t end = begin + smaller(entry.num_elements - begin, ELEMENTS_PER_BLOCK);
    const auto* gradient = static_cast<const Gradient*>(entry.gradient);
    auto* result = static_cast<Weight*>(entry.result);
    const double norm = sigma[entry.layer];
    const auto scale = float(1 / norm), slope = float(products[entry.layer] / (norm * norm));
    const float *layer_u = u + entry.u, *layer_v = v + entry.v;
    const bool contiguous =
        entry.inner_stride == 1 && entry.inner_size == entry.columns && entry.row_stride == entry.columns;
    if (contiguous && entry.columns % 4 == 0) {
        for (uint32_t position = begin + threadIdx.x * 4; position < end; position += THREADS * 4) {
            const uint32_t row = position / entry.columns, column = position - row * entry.columns;
            const float factor = slope * layer_u[row];
            float values[4];
            load_four(values, gradient + position, 4);
            for (int element = 0; element < 4; ++element) {
                values[element] = values[element] * scale - layer_v[column + element] * factor;
            }
            store_four(result + position, values, 4);
        }
        return;
    }
    for (uint32_t position = begin + threadIdx.x; position < end; position += THREADS) {  // in logical order
        const uint32_t row = position / entry.columns, column = position - row * entry.columns;
        const uint32_t outer = column / entry.inner_size, inner = column - outer * entry.inner_size;
        const int64_t offset =
            row * entry.row_stride + int64_t(outer) * entry.outer_stride + int64_t(inner) * entry.inner_stride;
        result[offset] =
            from_float<Weight>(to_float(gradient[offset]) * scale - layer_v[column] * (slope * layer_u[row]));
    }
}

}  // namespace distgan::spectral_norm_scale
