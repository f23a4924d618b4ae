// What the kernels are written with: CUDA itself, or the emulator's stand-in for it. No torch header.
#pragma once

#include <stdexcept>
#include <string>

#include "bfloat16.h"
#include "portable.h"

#ifdef DISTGAN_EMULATOR
#include "../emulator/cuda.h"
#else
#include <cuda_runtime.h>

namespace distgan {

// All of a block's shared memory. It is dynamic throughout, so that the emulator can poison it and watch its bounds.
template <class T>
__device__ __forceinline__ T* shared_memory() {
    extern __shared__ __align__(16) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
}

inline void require_success(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(status) + ".");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
    constexpr size_t WITHOUT_ASKING = 48 * 1024;
    if (shared_bytes > WITHOUT_ASKING) {
        require_success(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
                        "Asking for shared memory");
    }
    kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
    require_success(cudaGetLastError(), "The kernel's launch");
}

inline void fill_with_zeros(void* memory, size_t bytes, cudaStream_t stream) {
    require_success(cudaMemsetAsync(memory, 0, bytes, stream), "Clearing device memory");
}

}  // namespace distgan
#endif

namespace distgan {

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

// The sum over the block, in an order that only the number of threads decides; every thread gets it. `scratch`: a T per
// warp, for this alone. All threads of the block have to call it.
template <class T>
__device__ inline T block_sum(T value, T* scratch) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    __syncthreads();  // all have read what an earlier sum left in scratch
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; ++warp) sum += scratch[warp];
    return sum;
}

// Whether this block is the last of `num_blocks` to come here; what the others wrote before, its threads then see.
// `finished` starts as zero; `scratch` has room for one number. All threads of the block call it.
__device__ inline bool is_last_to_finish(unsigned* finished, unsigned num_blocks, unsigned* scratch) {
    __threadfence();  // what this thread wrote is seen by whoever sees the count
    __syncthreads();
    if (threadIdx.x == 0) *scratch = atomicAdd(finished, 1u);
    __syncthreads();
    const bool is_last = *scratch == num_blocks - 1;
    __syncthreads();  // scratch is free again
    if (is_last) __threadfence();
    return is_last;
}

// Four values in one access of memory; only where the address is a multiple of their size.
template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

template <class T>
inline DISTGAN_HOST_DEVICE bool is_aligned_to_four(const T* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % sizeof(Four<T>) == 0;
}

// Four elements, or the first `count` of them and zeros: which thread takes which does not depend on the alignment, and
// with it no sum does.
template <class T>
__device__ inline void load_four(float (&values)[4], const T* from, uint32_t count) {
    if (count == 4 && is_aligned_to_four(from)) {
        const auto four = *reinterpret_cast<const Four<T>*>(from);
        for (int element = 0; element < 4; ++element) values[element] = to_float(four.values[element]);
    } else {
        for (uint32_t element = 0; element < 4; ++element)
            values[element] = element < count ? to_float(from[element]) : 0;
    }
}

template <class T>
__device__ inline void store_four(T* to, const float (&values)[4], uint32_t count) {
    if (count == 4 && is_aligned_to_four(to)) {
        Four<T> four;
        for (int element = 0; element < 4; ++element) four.values[element] = from_float<T>(values[element]);
        *reinterpret_cast<Four<T>*>(to) = four;
    } else {
        for (uint32_t element = 0; element < 4; ++element) {
            if (element < count) to[element] = from_float<T>(values[element]);
        }
    }
}

// The entry to which a block belongs, where each entry's blocks begin at `first_block`, ascending.
template <class Entry>
__device__ inline int entry_of_block(const Entry* entries, int count, unsigned block) {
    int low = 0;
    for (int high = count; high - low > 1;) {
        const int middle = (low + high) / 2;
        (entries[middle].first_block <= block ? low : high) = middle;
    }
    return low;
}

// A table is an argument of the kernel, so that no metadata is copied to the device and a graph can hold it. Arguments
// may have 32,764 bytes (CUDA 12.1 and later, compute capability 7.0 and later); the rest is for the other arguments.
template <class Entry>
constexpr int table_capacity = (32764 - 256) / sizeof(Entry);

template <class Entry>
struct Table {
    Entry entries[table_capacity<Entry>];
    int count;
};

}  // namespace distgan
