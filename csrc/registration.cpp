// Every operator's schema, once. The implementations register themselves: <op>_cpu.cpp for the CPU, <op>_cuda.cu for
// CUDA.

#include "common/tensors.h"

STABLE_TORCH_LIBRARY(DISTGAN_NAMESPACE, library) {
    library.def("ema_update(Tensor(a!)[] average, Tensor[] weights, float decay) -> ()");
    library.def(
        "spectral_norm_power_iteration_(Tensor[] weights, Tensor(a!) u, Tensor(b!) v, int iterations, float eps) -> "
        "Tensor");
    library.def(
        "spectral_norm_scale(Tensor[] weights, Tensor u, Tensor v, Tensor sigma, ScalarType dtype) -> Tensor[]");
    library.def(
        "spectral_norm_scale_backward(Tensor[] gradients, Tensor[] weights, Tensor u, Tensor v, Tensor sigma) -> "
        "Tensor[]");
    library.def("gradient_penalty(Tensor gradients, float center, float weight) -> (Tensor penalty, Tensor norms)");
    library.def(
        "gradient_penalty_backward(Tensor upstream, Tensor gradients, Tensor norms, float center, float weight) -> "
        "Tensor");
    library.def(
        "gradient_penalty_backward_backward(Tensor upstream, Tensor gradients, Tensor norms, Tensor directions, float "
        "center, float weight)"
        " -> (Tensor upstream_result, Tensor gradients_result)");
    library.def(
        "gradient_penalty_interpolate(Tensor real, Tensor fake, SymInt seed, SymInt offset, int mode) -> Tensor");
}
