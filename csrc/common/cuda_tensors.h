// What a CUDA binding needs beyond tensors.h: the stream, the device and scratch memory. The emulator has its own of
// each.
#pragma once

#include <functional>
#include <utility>

#include "device.cuh"
#include "tensors.h"

#ifndef DISTGAN_EMULATOR
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace distgan {

// Makes the tensor's device current for its own lifetime and knows torch's current stream there.
class OnDeviceOf {
 public:
#ifdef DISTGAN_EMULATOR
    explicit OnDeviceOf(const Tensor&) {}
    cudaStream_t stream = nullptr;
#else
    explicit OnDeviceOf(const Tensor& tensor) : guard_(tensor.get_device_index()) {
        void* current = nullptr;
        STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
        stream = static_cast<cudaStream_t>(current);
    }
    cudaStream_t stream;

 private:
    torch::stable::accelerator::DeviceGuard guard_;
#endif
};

// Uninitialised; the emulator fills it with NaN, so that what a kernel forgets to write is seen.
inline Tensor empty(const Tensor& like, std::vector<int64_t> size, ScalarType dtype) {
    return poisoned(torch::stable::new_empty(like, size, dtype));
}

// Calls `function` with a value of the C++ type that stands for float32 or bfloat16.
template <class Function>
void with_type(ScalarType dtype, const Function& function) {
    dtype == ScalarType::Float ? function(float{}) : function(BFloat16{});
}

// Collects entries into a table and launches whenever it is full: `launch_table(table, number of blocks)`.
template <class Entry>
class TableFiller {
 public:
    using Launch = std::function<void(const Table<Entry>&, unsigned)>;

    explicit TableFiller(Launch launch_table) : launch_table_(std::move(launch_table)) {}

    // An entry of `num_blocks` blocks; its `first_block` is set here.
    void add(Entry entry, uint32_t num_blocks) {
        entry.first_block = num_blocks_;
        table_.entries[table_.count++] = entry;
        num_blocks_ += num_blocks;
        if (table_.count == table_capacity<Entry>) flush();
    }

    void flush() {
        if (table_.count) launch_table_(table_, num_blocks_);
        table_.count = 0;
        num_blocks_ = 0;
    }

 private:
    Launch launch_table_;
    Table<Entry> table_{};
    uint32_t num_blocks_ = 0;
};

}  // namespace distgan
