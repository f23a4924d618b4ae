// average <- decay * average + (1 - decay) * weight, all tensors in one launch. Reads both once, writes the average.
#pragma once

#include "../common/device.cuh"

namespace distgan::ema_update {

constexpr unsigned THREADS = 256;
constexpr unsigned ELEMENTS_PER_BLOCK = 8192;

struct Entry {
    float* average;
    const void* weight;
    uint32_t num_elements, first_block;
};

template <class Weight>
__global__ void __launch_bounds__(THREADS) kernel(const __grid_constant__ Table<Entry> table, float share) {
    const Entry& entry = table.entries[entry_of_block(table.entries, table.count, blockIdx.x)];
    const uint32_t begin = (blockIdx.x - entry.first_block) * ELEMENTS_PER_BLOCK;
    const uint32_t length = smaller(entry.num_elements - begin, ELEMENTS_PER_BLOCK);
    float* average = entry.average + begin;
    const Weight* weight = static_cast<const Weight*>(entry.weight) + begin;
    for (uint32_t position = threadIdx.x * 4; position < length; position += THREADS * 4) {
        const uint32_t count = smaller(length - position, 4u);
        float old[4], now[4];
        load_four(old, average + position, count);
        load_four(now, weight + position, count);
        for (int element = 0; element < 4; ++element) old[element] += share * (now[element] - old[element]);
        store_four(average + position, old, count);
    }
}

}  // namespace distgan::ema_update
