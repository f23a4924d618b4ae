// Kernels with one fault each, to see that the emulator shows it: torch.ops.distgan_faults, for test_emulator.py.

#include "common/cuda_tensors.h"

namespace distgan {
namespace {

// One block, a thread and a float of shared memory for each element.
template <void (*kernel)(float*)>
void run_kernel(const Tensor data) {
    const auto size = unsigned(data.numel());
    launch(kernel, 1, size, size * sizeof(float), OnDeviceOf(data).stream, static_cast<float*>(data.data_ptr()));
}

// data[thread] <- the number of the next thread, and of the first for the last.
__global__ void neighbours(float* data) {
    float* numbers = shared_memory<float>();
    numbers[threadIdx.x] = float(threadIdx.x);
    __syncthreads();
    data[threadIdx.x] = numbers[(threadIdx.x + 1) % blockDim.x];
}

__global__ void neighbours_without_barrier(float* data) {
    float* numbers = shared_memory<float>();
    numbers[threadIdx.x] = float(threadIdx.x);
    data[threadIdx.x] = numbers[(threadIdx.x + 1) % blockDim.x];
}

__global__ void barrier_for_some(float* data) {
    if (threadIdx.x < WARP) __syncthreads();
    data[threadIdx.x] = 1;
}

__global__ void shuffle_for_some(float* data) {
    if (threadIdx.x % WARP < WARP / 2) data[threadIdx.x] = __shfl_xor_sync(ALL_LANES, data[threadIdx.x], 1);
}

__global__ void reads_unwritten_shared_memory(float* data) { data[threadIdx.x] = shared_memory<float>()[threadIdx.x]; }

__global__ void writes_past_shared_memory(float* data) { shared_memory<float>()[threadIdx.x + 1] = data[threadIdx.x]; }

__global__ void writes_past_global_memory(float* data) { data[threadIdx.x + 1] = 1; }

__global__ void writes_past_its_stack(float* data) {
    float values[4] = {};
    values[unsigned(data[threadIdx.x])] = 1;  // the test has 4 there
    __syncthreads();
    data[threadIdx.x] = values[threadIdx.x % 4];
}

// What no kernel does, but the emulator has to survive.
__global__ void throws_between_barriers(float*) {
    __syncthreads();
    if (threadIdx.x == blockDim.x / 2) throw std::runtime_error("thrown in the middle");
    __syncthreads();
}

// An output of which the last element is forgotten.
__global__ void writes_all_but_one(float* data) {
    if (threadIdx.x + 1 < blockDim.x) data[threadIdx.x] = 1;
}

Tensor unwritten_output(const Tensor like) {
    const Tensor output = empty(like, {like.numel()}, ScalarType::Float);
    run_kernel<writes_all_but_one>(output);
    return output;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY(distgan_faults, library) {
    for (const char* name : {"neighbours", "neighbours_without_barrier", "barrier_for_some", "shuffle_for_some",
                             "reads_unwritten_shared_memory", "writes_past_shared_memory", "writes_past_global_memory",
                             "writes_past_its_stack", "throws_between_barriers"}) {
        library.def((std::string(name) + "(Tensor(a!) data) -> ()").c_str());
    }
    library.def("unwritten_output(Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(distgan_faults, CPU, library) {
    using namespace distgan;
    library.impl("neighbours", TORCH_BOX(&run_kernel<neighbours>));
    library.impl("neighbours_without_barrier", TORCH_BOX(&run_kernel<neighbours_without_barrier>));
    library.impl("barrier_for_some", TORCH_BOX(&run_kernel<barrier_for_some>));
    library.impl("shuffle_for_some", TORCH_BOX(&run_kernel<shuffle_for_some>));
    library.impl("reads_unwritten_shared_memory", TORCH_BOX(&run_kernel<reads_unwritten_shared_memory>));
    library.impl("writes_past_shared_memory", TORCH_BOX(&run_kernel<writes_past_shared_memory>));
    library.impl("writes_past_global_memory", TORCH_BOX(&run_kernel<writes_past_global_memory>));
    library.impl("writes_past_its_stack", TORCH_BOX(&run_kernel<writes_past_its_stack>));
    library.impl("throws_between_barriers", TORCH_BOX(&run_kernel<throws_between_barriers>));
    library.impl("unwritten_output", TORCH_BOX(&unwritten_output));
}
