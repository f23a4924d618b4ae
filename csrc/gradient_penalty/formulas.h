// The formulas of gradient_penalty and its derivatives.
//
// P = weight * mean_i (r_i - center)^2 with r_i = |g_i|. With k = 2 * weight / N * upstream and s = 1 - center / r:
//   dP/dg_i = k s g_i,
//   the derivative of <dP/dg, h> in g_i:      k (s h_i + center <g_i, h_i> / r_i^3 g_i),
//   the derivative of <dP/dg, h> in upstream: sum_i 2 * weight / N * s <g_i, h_i>.
#pragma once

#include "../common/portable.h"

namespace distgan {

// 2 * weight / N; a number also without samples, so that sums over none of them are 0.
inline double derivative_factor(double weight, int64_t num_samples) {
    return 2 * weight / double(larger(num_samples, int64_t(1)));
}

// s. Without a center r^2 is differentiated, which has a slope everywhere; otherwise the norm has none at 0, and 0 is
// taken.
inline DISTGAN_HOST_DEVICE float radial_slope(float norm, float center) {
    if (center == 0) return 1;
    return norm == 0 ? 0 : 1 - center / norm;
}

// center <g, h> / r^3; in double precision because r^3 leaves the range of fp32.
inline DISTGAN_HOST_DEVICE double radial_curvature(double product, double norm, double center) {
    if (center == 0 || norm == 0) return 0;
    return center * (product / norm) / (norm * norm);
}

}  // namespace distgan
