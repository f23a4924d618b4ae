#include "../common/cuda_tensors.h"
#include "gradient_penalty_interpolate.cuh"
#include "gradient_penalty_interpolate.h"

namespace distgan {
namespace {

using gradient_penalty_interpolate::Mix;
using gradient_penalty_interpolate::Normalise;

// function(the elements, with their type).
template <class Function>
void with_elements(const Tensor& images, const Function& function) {
    switch (images.scalar_type()) {
        case ScalarType::Byte:
            return function(static_cast<const uint8_t*>(images.data_ptr()));
        case ScalarType::Float:
            return function(static_cast<const float*>(images.data_ptr()));
        default:
            return function(static_cast<const BFloat16*>(images.data_ptr()));
    }
}

Tensor gradient_penalty_interpolate_cuda(const Tensor real_images, const Tensor fake_images, int64_t seed,
                                         int64_t offset, int64_t mode_number) {
    check_interpolate(real_images, fake_images, offset, mode_number);
    const OnDeviceOf device(real_images);
    const auto mode = Mode(mode_number);
    const Images images(real_images, fake_images, mode);
    const Samples samples = Samples::of(images.result);
    const Partition partition(samples.number, samples.size);
    auto* result = static_cast<float*>(images.result.data_ptr());
    if (mode != Mode::MIXTURE) {
        with_elements(mode == Mode::REAL ? images.real : images.fake, [&]<class T>(const T* elements) {
            map_samples(partition, Normalise<T>{elements, result}, device.stream);
        });
        return images.result;
    }
    with_elements(images.real, [&]<class Real>(const Real* real) {
        const auto mix = [&]<class Fake>(const Fake* fake) {
            map_samples(partition, Mix<Real, Fake>{real, fake, result, uint64_t(seed), uint64_t(offset)},
                        device.stream);
        };
        if (images.fake.scalar_type() == ScalarType::Float) {
            mix(static_cast<const float*>(images.fake.data_ptr()));
        } else {
            mix(static_cast<const BFloat16*>(images.fake.data_ptr()));
        }
    });
    return images.result;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(DISTGAN_NAMESPACE, DISTGAN_CUDA_KEY, library) {
    library.impl("gradient_penalty_interpolate", TORCH_BOX(&distgan::gradient_penalty_interpolate_cuda));
}
