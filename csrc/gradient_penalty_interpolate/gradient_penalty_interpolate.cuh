// Normalises and mixes in one pass.
#pragma once

#include "../common/samples.cuh"
#include "formulas.h"

namespace distgan::gradient_penalty_interpolate {

template <class Real, class Fake>
struct Mix {
    const Real* real;
    const Fake* fake;
    float* result;
    uint64_t seed, offset;

    __device__ void operator()(const Stretch& stretch) const {
        const float share = share_of_real(seed, offset + stretch.sample);
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float from_real[4], from_fake[4];
            load_four(from_real, real + position, count);
            load_four(from_fake, fake + position, count);
            for (int element = 0; element < 4; ++element) {
                from_real[element] = mixed(share, normalised<Real>(from_real[element]), from_fake[element]);
            }
            store_four(result + position, from_real, count);
        });
    }
};

template <class T>
struct Normalise {
    const T* images;
    float* result;

    __device__ void operator()(const Stretch& stretch) const {
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float values[4];
            load_four(values, images + position, count);
            for (int element = 0; element < 4; ++element) values[element] = normalised<T>(values[element]);
            store_four(result + position, values, count);
        });
    }
};

}  // namespace distgan::gradient_penalty_interpolate
