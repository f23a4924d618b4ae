#include <cmath>
#include <memory>

#include "../common/vectors.h"
#include "formulas.h"
#include "gradient_penalty.h"

namespace distgan {
namespace {

constexpr int64_t RUN = 1024;  // elements whose sum is taken in fp32; the runs are added in double precision
constexpr int64_t AT_ONCE = 4;

// <a, b> over a piece; with a = b its squares, read once.
template <bool SQUARES, class T>
DISTGAN_INLINE double product(const T* a, const T* b, int64_t length) {
    double total = 0;
    int64_t position = 0;
    while (position + AT_ONCE * LANES <= length) {
        Lanes sums[AT_ONCE] = {};
        const int64_t end = smaller(position + RUN, length);
        for (; position + AT_ONCE * LANES <= end; position += AT_ONCE * LANES) {
            for (int64_t part = 0; part < AT_ONCE; ++part) {
                const Lanes left = load(a + position + part * LANES);
                sums[part] += left * (SQUARES ? left : load(b + position + part * LANES));
            }
        }
        total += sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    for (; position < length; ++position) total += double(to_float(a[position])) * to_float(b[position]);
    return total;
}

template <class T>
DISTGAN_INLINE void combine(T* to, const T* a, float a_factor, const T* b, float b_factor, int64_t length,
                            bool streamed) {
    streamed = streamed && can_stream(to);
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        store(to + position, load(a + position) * a_factor + load(b + position) * b_factor, streamed);
    }
    for (; position < length; ++position)
        to[position] = from_float<T>(a_factor * to_float(a[position]) + b_factor * to_float(b[position]));
}

// Tensors of one dtype and layout, as the pieces see them.
struct Elements {
    bool is_fp32;
    const void *a, *b;
    void* to;
    bool streamed;  // the results

    template <class T>
    const T* left(const Piece& piece) const {
        return static_cast<const T*>(a) + piece.begin;
    }
    template <class T>
    const T* right(const Piece& piece) const {
        return static_cast<const T*>(b) + piece.begin;
    }
    template <class T>
    T* result(const Piece& piece) const {
        return static_cast<T*>(to) + piece.begin;
    }
};

DISTGAN_CLONES double squares_of(const Elements& elements, const Piece& piece) {
    return elements.is_fp32
               ? product<true>(elements.left<float>(piece), elements.left<float>(piece), piece.length)
               : product<true>(elements.left<BFloat16>(piece), elements.left<BFloat16>(piece), piece.length);
}

DISTGAN_CLONES double product_of(const Elements& elements, const Piece& piece) {
    return elements.is_fp32
               ? product<false>(elements.left<float>(piece), elements.right<float>(piece), piece.length)
               : product<false>(elements.left<BFloat16>(piece), elements.right<BFloat16>(piece), piece.length);
}

DISTGAN_CLONES void scale_piece(const Elements& elements, const Piece& piece, float factor) {
    elements.is_fp32
        ? scale(elements.result<float>(piece), elements.left<float>(piece), factor, piece.length, elements.streamed)
        : scale(elements.result<BFloat16>(piece), elements.left<BFloat16>(piece), factor, piece.length,
                elements.streamed);
}

DISTGAN_CLONES void combine_piece(const Elements& elements, const Piece& piece, float a_factor, float b_factor) {
    elements.is_fp32 ? combine(elements.result<float>(piece), elements.left<float>(piece), a_factor,
                               elements.right<float>(piece), b_factor, piece.length, elements.streamed)
                     : combine(elements.result<BFloat16>(piece), elements.left<BFloat16>(piece), a_factor,
                               elements.right<BFloat16>(piece), b_factor, piece.length, elements.streamed);
}

// finish_sample(sample, sum) for each sample in order, with the sum over its pieces of sum_piece(piece).
template <class SumPiece, class FinishSample>
void sum_samples(const Samples& samples, const SumPiece& sum_piece, const FinishSample& finish_sample) {
    const Pieces pieces(samples);
    const std::unique_ptr<double[]> sums(new double[pieces.number()]);
    pieces.for_each([&](const Piece& piece) { sums[piece.number] = sum_piece(piece); });
    for (int64_t sample = 0; sample < samples.number; ++sample) {
        double sum = 0;
        for (int64_t piece = 0; piece < pieces.per_sample(); ++piece) sum += sums[sample * pieces.per_sample() + piece];
        finish_sample(sample, sum);
    }
}

std::tuple<Tensor, Tensor> gradient_penalty_cpu(const Tensor gradients, double center, double weight) {
    check_gradients(gradients);
    const Tensor dense = with_dense_samples(gradients);
    const Samples samples = Samples::of(dense);
    Tensor penalty = torch::stable::new_empty(dense, {}, ScalarType::Float);
    Tensor norms = torch::stable::new_empty(dense, {samples.number}, ScalarType::Float);
    auto* norm = static_cast<float*>(norms.data_ptr());
    const Elements elements{dense.scalar_type() == ScalarType::Float, dense.data_ptr(), nullptr, nullptr, false};
    double total = 0;
    sum_samples(
        samples, [&](const Piece& piece) { return squares_of(elements, piece); },
        [&](int64_t sample, double squares) {
            const double root = std::sqrt(squares);
            norm[sample] = float(root);
            total += (root - center) * (root - center);
        });
    *static_cast<float*>(penalty.data_ptr()) = float(weight * (total / double(samples.number)));
    return {penalty, norms};
}

Tensor gradient_penalty_backward_cpu(const Tensor upstream, const Tensor gradients, const Tensor norms, double center,
                                     double weight) {
    check_backward(upstream, gradients, norms);
    const Tensor dense = with_dense_samples(gradients), dense_norms = torch::stable::contiguous(norms);
    const Samples samples = Samples::of(dense);
    Tensor result = empty_in_layout_of(dense, dense.scalar_type());
    const auto* norm = static_cast<const float*>(dense_norms.data_ptr());
    const Elements elements{dense.scalar_type() == ScalarType::Float, dense.data_ptr(), nullptr, result.data_ptr(),
                            is_streamed(result.numel() * result.element_size())};
    const float factor =
        float(derivative_factor(weight, samples.number)) * *static_cast<const float*>(upstream.data_ptr());
    Pieces(samples).for_each([&](const Piece& piece) {
        scale_piece(elements, piece, factor * radial_slope(norm[piece.sample], float(center)));
    });
    return result;
}

std::tuple<Tensor, Tensor> gradient_penalty_backward_backward_cpu(const Tensor upstream, const Tensor gradients,
                                                                  const Tensor norms, const Tensor directions,
                                                                  double center, double weight) {
    check_backward_backward(upstream, gradients, norms, directions);
    const Tensor dense = with_dense_samples(gradients), dense_directions = in_layout_of(dense, directions);
    const Tensor dense_norms = torch::stable::contiguous(norms);
    const Samples samples = Samples::of(dense);
    Tensor upstream_result = torch::stable::new_empty(dense, {}, ScalarType::Float);
    Tensor result = empty_in_layout_of(dense, dense.scalar_type());
    const auto* norm = static_cast<const float*>(dense_norms.data_ptr());
    const Elements elements{dense.scalar_type() == ScalarType::Float, dense.data_ptr(), dense_directions.data_ptr(),
                            result.data_ptr(), is_streamed(result.numel() * result.element_size())};
    const double upstream_factor = derivative_factor(weight, samples.number);
    const double factor = upstream_factor * *static_cast<const float*>(upstream.data_ptr());
    const std::unique_ptr<float[]> curvatures(new float[samples.number]);
    double total = 0;
    sum_samples(
        samples, [&](const Piece& piece) { return product_of(elements, piece); },
        [&](int64_t sample, double product) {
            curvatures[sample] = float(factor * radial_curvature(product, norm[sample], center));
            total += radial_slope(norm[sample], float(center)) * product;
        });
    *static_cast<float*>(upstream_result.data_ptr()) = float(upstream_factor * total);
    Pieces(samples).for_each([&](const Piece& piece) {
        const float slope = float(factor) * radial_slope(norm[piece.sample], float(center));
        combine_piece(elements, piece, curvatures[piece.sample], slope);
    });
    return {upstream_result, result};
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("gradient_penalty", TORCH_BOX(&distgan::gradient_penalty_cpu));
    library.impl("gradient_penalty_backward", TORCH_BOX(&distgan::gradient_penalty_backward_cpu));
    library.impl("gradient_penalty_backward_backward", TORCH_BOX(&distgan::gradient_penalty_backward_backward_cpu));
}
