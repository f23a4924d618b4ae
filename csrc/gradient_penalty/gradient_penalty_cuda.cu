#include "../common/cuda_tensors.h"
#include "gradient_penalty.cuh"
#include "gradient_penalty.h"

namespace distgan {
namespace {

using namespace gradient_penalty;

template <class T>
T* pointer(const Tensor& tensor) {
    return static_cast<T*>(tensor.data_ptr());
}

Tensor sums_memory(const Tensor& like, const Partition& partition) {
    return empty(like, {SumsMemory::size(partition)}, ScalarType::Double);
}

std::tuple<Tensor, Tensor> gradient_penalty_cuda(const Tensor gradients, double center, double weight) {
    check_gradients(gradients);
    const OnDeviceOf device(gradients);
    const Tensor dense = with_dense_samples(gradients);
    const Samples samples = Samples::of(dense);
    const Partition partition(samples.number, samples.size);
    Tensor penalty = empty(dense, {}, ScalarType::Float), norms = empty(dense, {samples.number}, ScalarType::Float);
    const Tensor memory = sums_memory(dense, partition);
    with_type(dense.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const Norms<T> sums{pointer<T>(dense),     pointer<float>(norms), pointer<float>(penalty), center, weight,
                            double(samples.number)};
        sum_samples(partition, pointer<double>(memory), sums, device.stream);
    });
    return {penalty, norms};
}

Tensor gradient_penalty_backward_cuda(const Tensor upstream, const Tensor gradients, const Tensor norms, double center,
                                      double weight) {
    check_backward(upstream, gradients, norms);
    const OnDeviceOf device(gradients);
    const Tensor dense = with_dense_samples(gradients), dense_norms = torch::stable::contiguous(norms);
    const Samples samples = Samples::of(dense);
    Tensor result = empty_in_layout_of(dense, dense.scalar_type());
    with_type(dense.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const Backward<T> map{
            pointer<float>(upstream), pointer<T>(dense), pointer<float>(dense_norms),
            pointer<T>(result),       float(center),     float(derivative_factor(weight, samples.number))};
        map_samples(Partition(samples.number, samples.size), map, device.stream);
    });
    return result;
}

std::tuple<Tensor, Tensor> gradient_penalty_backward_backward_cuda(const Tensor upstream, const Tensor gradients,
                                                                   const Tensor norms, const Tensor directions,
                                                                   double center, double weight) {
    check_backward_backward(upstream, gradients, norms, directions);
    const OnDeviceOf device(gradients);
    const Tensor dense = with_dense_samples(gradients), dense_directions = in_layout_of(dense, directions);
    const Tensor dense_norms = torch::stable::contiguous(norms);
    const Samples samples = Samples::of(dense);
    const Partition partition(samples.number, samples.size);
    Tensor upstream_result = empty(dense, {}, ScalarType::Float),
           result = empty_in_layout_of(dense, dense.scalar_type());
    const Tensor memory = sums_memory(dense, partition), curvatures = empty(dense, {samples.number}, ScalarType::Float);
    const double factor = derivative_factor(weight, samples.number);
    with_type(dense.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const Products<T> sums{pointer<float>(upstream),
                               pointer<T>(dense),
                               pointer<T>(dense_directions),
                               pointer<float>(dense_norms),
                               pointer<float>(curvatures),
                               pointer<float>(upstream_result),
                               center,
                               factor};
        sum_samples(partition, pointer<double>(memory), sums, device.stream);
        const BackwardBackward<T> map{pointer<float>(upstream),
                                      pointer<T>(dense),
                                      pointer<T>(dense_directions),
                                      pointer<float>(dense_norms),
                                      pointer<float>(curvatures),
                                      pointer<T>(result),
                                      float(center),
                                      float(factor)};
        map_samples(partition, map, device.stream);
    });
    return {upstream_result, result};
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("gradient_penalty", TORCH_BOX(&distgan::gradient_penalty_cuda));
    library.impl("gradient_penalty_backward", TORCH_BOX(&distgan::gradient_penalty_backward_cuda));
    library.impl("gradient_penalty_backward_backward", TORCH_BOX(&distgan::gradient_penalty_backward_backward_cuda));
}
