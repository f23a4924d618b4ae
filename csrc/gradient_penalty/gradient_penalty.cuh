// The kernels' parts for common/samples.cuh: norms and penalty in one read, the derivative in one read and one write.
#pragma once

#include <cmath>

#include "../common/samples.cuh"
#include "formulas.h"

namespace distgan::gradient_penalty {

template <class T>
struct Norms {
    const T* gradients;
    float *norms, *penalty;
    double center, weight, num_samples;

    __device__ float add(const Stretch& stretch) const {
        float sums[4] = {};
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float g[4];
            load_four(g, gradients + position, count);
            for (int element = 0; element < 4; ++element) sums[element] += g[element] * g[element];
        });
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    __device__ double finish_sample(uint32_t sample, double squares) const {
        const double norm = sqrt(squares);
        norms[sample] = float(norm);
        return (norm - center) * (norm - center);
    }

    __device__ void finish(double total) const { *penalty = float(weight * (total / num_samples)); }
};

template <class T>
struct Backward {
    const float* upstream;
    const T* gradients;
    const float* norms;
    T* result;
    float center, upstream_factor;

    __device__ void operator()(const Stretch& stretch) const {
        const float factor = upstream_factor * *upstream * radial_slope(norms[stretch.sample], center);
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float g[4];
            load_four(g, gradients + position, count);
            for (int element = 0; element < 4; ++element) g[element] *= factor;
            store_four(result + position, g, count);
        });
    }
};

// The derivative in upstream, and for each sample the factor of g in the derivative in g.
template <class T>
struct Products {
    const float* upstream;
    const T *gradients, *directions;
    const float* norms;
    float *curvatures, *upstream_result;
    double center, upstream_factor;

    __device__ float add(const Stretch& stretch) const {
        float sums[4] = {};
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float g[4], h[4];
            load_four(g, gradients + position, count);
            load_four(h, directions + position, count);
            for (int element = 0; element < 4; ++element) sums[element] += g[element] * h[element];
        });
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    __device__ double finish_sample(uint32_t sample, double product) const {
        curvatures[sample] = float(upstream_factor * *upstream * radial_curvature(product, norms[sample], center));
        return radial_slope(norms[sample], float(center)) * product;
    }

    __device__ void finish(double total) const { *upstream_result = float(upstream_factor * total); }
};

template <class T>
struct BackwardBackward {
    const float* upstream;
    const T *gradients, *directions;
    const float *norms, *curvatures;
    T* result;
    float center, upstream_factor;

    __device__ void operator()(const Stretch& stretch) const {
        const float curvature = curvatures[stretch.sample];
        const float slope = upstream_factor * *upstream * radial_slope(norms[stretch.sample], center);
        stretch.for_each_four([&](uint32_t position, uint32_t count) {
            float g[4], h[4];
            load_four(g, gradients + position, count);
            load_four(h, directions + position, count);
            for (int element = 0; element < 4; ++element) g[element] = curvature * g[element] + slope * h[element];
            store_four(result + position, g, count);
        });
    }
};

}  // namespace distgan::gradient_penalty
