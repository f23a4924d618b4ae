// The part of CUDA that the kernels use, on the CPU: enough to compile the unmodified .cuh and .cu files with a C++
// compiler.
//
// Blocks run one after the other; the threads of a block are fibers that run until they meet a barrier. So every access
// is checked by the sanitizers, every barrier that is missing shows up as soon as the threads run in another order, and
// shared memory is poisoned before each block. What it cannot show: races between blocks, and anything about time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

using cudaStream_t = void*;

struct Index {
    unsigned x;
};

namespace distgan::emulator {

struct Thread {
    Index thread, block, block_size, grid_size;
};

struct Settings {
    bool reversed = false;  // blocks and threads run from the last to the first
};

struct Counters {
    uint64_t launches = 0, blocks = 0, barriers = 0;
};

extern Settings settings;
extern Counters counters;
extern const Thread* current;                     // the one that runs now
unsigned char* shared_bytes();                    // of the current block
void wait_for_block();                            // __syncthreads
uint64_t exchange(uint64_t bits, unsigned lane);  // a shuffle: what that lane of the warp brought
void run(const std::function<void()>& kernel, unsigned num_blocks, unsigned num_threads, size_t shared_bytes);

}  // namespace distgan::emulator

#define threadIdx (distgan::emulator::current->thread)
#define blockIdx (distgan::emulator::current->block)
#define blockDim (distgan::emulator::current->block_size)
#define gridDim (distgan::emulator::current->grid_size)

inline void __syncthreads() { distgan::emulator::wait_for_block(); }
inline void __threadfence() {}

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned lane_mask) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = distgan::emulator::exchange(bits, threadIdx.x % 32 ^ lane_mask);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
    const unsigned before = *address;
    *address += value;
    return before;
}

template <class T>
T __ldg(const T* address) {
    return *address;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }

namespace distgan {

template <class T>
T* shared_memory() {
    return reinterpret_cast<T*>(emulator::shared_bytes());
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t,
            const Arguments&... arguments) {
    emulator::run([&] { kernel(arguments...); }, blocks, threads, shared_bytes);
}

inline void fill_with_zeros(void* memory, size_t bytes, cudaStream_t) { memset(memory, 0, bytes); }

}  // namespace distgan
