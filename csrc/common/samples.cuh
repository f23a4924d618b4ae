// Kernels over samples of equal size that lie one after the other: how they are cut into blocks, maps, and sums of each
// sample.
#pragma once

#include "device.cuh"

namespace distgan {

// Every block takes a stretch of one sample; small samples take a warp each. The shape alone decides, so that the order
// of every sum does, too. Counts are 32-bit: the bindings refuse what has more than 2^31 - 1 elements.
struct Partition {
    static constexpr unsigned THREADS = 256, WARPS = THREADS / WARP;
    static constexpr uint32_t LARGEST_SAMPLE_OF_A_WARP = 512;
    static constexpr uint32_t MOST_BLOCKS_OF_WARPS = 1024;

    uint32_t num_samples, sample_size;
    uint32_t stretch;            // elements for a block; 0: a warp takes a whole sample
    uint32_t blocks_per_sample;  // if blocks take stretches
    uint32_t samples_per_block;  // if warps take samples
    uint32_t num_blocks;

    Partition(int64_t number, int64_t size) : num_samples(uint32_t(number)), sample_size(uint32_t(size)) {
        if (sample_size <= LARGEST_SAMPLE_OF_A_WARP) {
            stretch = blocks_per_sample = 0;
            samples_per_block = WARPS * larger(1u, ceil_div(num_samples, WARPS * MOST_BLOCKS_OF_WARPS));
            num_blocks = ceil_div(num_samples, samples_per_block);
        } else {
            // About a thousand blocks, which fill the largest GPUs, unless the stretches become too short or too long
            // for a block.
            constexpr uint32_t SHORTEST = THREADS * 4, LONGEST = 16 * SHORTEST;
            const uint32_t stretches = ceil_div(uint32_t(num_samples * sample_size), 1024 * SHORTEST);
            stretch = smaller(larger(stretches, 1u) * SHORTEST, LONGEST);
            samples_per_block = 0;
            blocks_per_sample = ceil_div(sample_size, stretch);
            num_blocks = num_samples * blocks_per_sample;
        }
    }
};

// What a thread does of a stretch of a sample: four elements from each of `begin + first`, `begin + first + step`, ...
struct Stretch {
    uint32_t sample, begin, length;
    uint32_t first, step;

    // visit(position, count): position is the number of an element of the batch, count 4, or less at the end of the
    // stretch.
    template <class Visit>
    __device__ void for_each_four(const Visit& visit) const {
        for (uint32_t offset = first; offset < length; offset += step)
            visit(begin + offset, smaller(length - offset, 4u));
    }
};

__device__ inline Stretch stretch_of_block(const Partition& partition) {
    const uint32_t sample = blockIdx.x / partition.blocks_per_sample;
    const uint32_t offset = (blockIdx.x - sample * partition.blocks_per_sample) * partition.stretch;
    const uint32_t length = smaller(partition.sample_size - offset, partition.stretch);
    return {sample, sample * partition.sample_size + offset, length, threadIdx.x * 4, Partition::THREADS * 4};
}

// visit(stretch) for each sample of this warp.
template <class Visit>
__device__ inline void for_each_sample_of_warp(const Partition& partition, const Visit& visit) {
    const uint32_t first = blockIdx.x * partition.samples_per_block;
    const uint32_t end = smaller(first + partition.samples_per_block, partition.num_samples);
    for (uint32_t sample = first + threadIdx.x / WARP; sample < end; sample += Partition::WARPS) {
        visit(Stretch{sample, sample * partition.sample_size, partition.sample_size, threadIdx.x % WARP * 4, WARP * 4});
    }
}

template <class Map>
__global__ void __launch_bounds__(Partition::THREADS) map_kernel(Partition partition, Map map) {
    if (partition.stretch) {
        map(stretch_of_block(partition));
    } else {
        for_each_sample_of_warp(partition, [&](const Stretch& stretch) { map(stretch); });
    }
}

// map(stretch) by every thread, for all samples.
template <class Map>
void map_samples(const Partition& partition, const Map& map, cudaStream_t stream) {
    if (partition.num_blocks)
        launch(map_kernel<Map>, partition.num_blocks, Partition::THREADS, 0, stream, partition, map);
}

__device__ inline double warp_sum(double value) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// The sum of `count` numbers by all threads of the block, in an order that only `count` decides. `scratch`: as in
// block_sum.
__device__ inline double block_sum_of(const double* numbers, uint32_t count, double* scratch) {
    double sum = 0;
    for (uint32_t number = threadIdx.x; number < count; number += Partition::THREADS) sum += numbers[number];
    return block_sum(sum, scratch);
}

// Where blocks leave what the last of them adds up.
struct SumsMemory {
    unsigned* counters;  // of all blocks (or of all finished samples), then of each sample
    double* stretches;   // a sum for each block
    double* terms;       // a number for each sample, or for each block of warps

    static int64_t num_counters(const Partition& partition) { return 1 + int64_t(partition.num_samples); }

    // In doubles, for all three; the counters come first.
    static int64_t size(const Partition& partition) {
        return ceil_div(num_counters(partition), int64_t(2)) + partition.num_blocks + larger(partition.num_samples, 1u);
    }

    SumsMemory(const Partition& partition, double* memory)
        : counters(reinterpret_cast<unsigned*>(memory)),
          stretches(memory + ceil_div(num_counters(partition), int64_t(2))),
          terms(stretches + partition.num_blocks) {}
};

template <class Sums>
__global__ void __launch_bounds__(Partition::THREADS) sums_kernel(Partition partition, SumsMemory memory, Sums sums) {
    double* scratch = shared_memory<double>();
    auto* flag = reinterpret_cast<unsigned*>(scratch + Partition::WARPS);
    uint32_t num_terms;
    if (partition.stretch) {
        const Stretch stretch = stretch_of_block(partition);
        double sum = block_sum(double(sums.add(stretch)), scratch);
        if (partition.blocks_per_sample > 1) {
            if (threadIdx.x == 0) memory.stretches[blockIdx.x] = sum;
            if (!is_last_to_finish(memory.counters + 1 + stretch.sample, partition.blocks_per_sample, flag)) return;
            sum = block_sum_of(memory.stretches + stretch.sample * partition.blocks_per_sample,
                               partition.blocks_per_sample, scratch);
        }
        if (threadIdx.x == 0) memory.terms[stretch.sample] = sums.finish_sample(stretch.sample, sum);
        num_terms = partition.num_samples;
    } else {
        double terms = 0;
        for_each_sample_of_warp(partition, [&](const Stretch& stretch) {
            const double sum = warp_sum(double(sums.add(stretch)));
            if (threadIdx.x % WARP == 0) terms += sums.finish_sample(stretch.sample, sum);
        });
        terms = block_sum(terms, scratch);
        if (threadIdx.x == 0) memory.terms[blockIdx.x] = terms;
        num_terms = gridDim.x;
    }
    if (!is_last_to_finish(memory.counters, num_terms, flag)) return;
    const double total = block_sum_of(memory.terms, num_terms, scratch);
    if (threadIdx.x == 0) sums.finish(total);
}

// One pass for all samples, in one launch:
//   sums.add(stretch) -> float                  by every thread: its part of the stretch's sum
//   sums.finish_sample(sample, sum) -> double   by one thread for each sample: its term of the total
//   sums.finish(total)                          by one thread, also where there is no sample
// `memory` has SumsMemory::size doubles. Floats are never added atomically: the same input gives the same bits.
template <class Sums>
void sum_samples(const Partition& partition, double* memory, const Sums& sums, cudaStream_t stream) {
    fill_with_zeros(memory, SumsMemory::num_counters(partition) * sizeof(unsigned), stream);
    const size_t shared_bytes = (Partition::WARPS + 1) * sizeof(double);
    const SumsMemory parts(partition, memory);
    launch(sums_kernel<Sums>, larger(partition.num_blocks, 1u), Partition::THREADS, shared_bytes, stream, partition,
           parts, sums);
}

}  // namespace distgan
