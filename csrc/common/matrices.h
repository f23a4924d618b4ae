// A weight of any shape as a matrix: its rows are dimension 0, its columns all others in their logical order, wherever
// they lie.
#pragma once

#include "portable.h"
#include "tensors.h"

namespace distgan {

// Element (r, c) lies at r * row_stride + c / inner_size * outer_stride + c % inner_size * inner_stride.
// Two strides for the columns cover contiguous, channels-last and transposed-convolution weights; others are copied
// first.
struct Matrix {
    const void* elements;
    int64_t rows, columns;
    int64_t row_stride, outer_stride, inner_stride, inner_size;

    bool has_contiguous_rows() const { return inner_stride == 1 && inner_size == columns; }
};

// Where a layer's vectors begin in u and v.
struct VectorOffsets {
    int64_t u, v;
};

inline int64_t num_rows(const Tensor& weight) { return weight.size(0); }

inline int64_t num_columns(const Tensor& weight) {
    int64_t columns = 1;
    for (int64_t dimension = 1; dimension < weight.dim(); ++dimension) columns *= weight.size(dimension);
    return columns;
}

// Throws a sentence unless the weights, u and v belong together; returns where each layer's vectors begin.
inline std::vector<VectorOffsets> check_layers(const std::vector<Tensor>& weights, const Tensor& u, const Tensor& v,
                                               bool are_written) {
    require(!weights.empty(), "weights is empty; pass at least one weight.");
    std::vector<VectorOffsets> offsets;
    int64_t rows = 0, columns = 0;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
        const Argument what("weights", layer);
        require(weights[layer].dim() >= 1, what, " has no dimension; a weight has at least one, its rows.");
        require_fp32_or_bf16(what, weights[layer]);
        require_countable(what, weights[layer]);
        require_same_device(what, weights[layer], "weights[0]", weights[0]);
        offsets.push_back({rows, columns});
        rows += num_rows(weights[layer]);
        columns += num_columns(weights[layer]);
    }
    for (const auto& [what, vectors, expected, sides] :
         {std::tuple{"u", &u, rows, "rows"}, std::tuple{"v", &v, columns, "columns"}}) {
        require_fp32(what, *vectors);
        require_same_device(what, *vectors, "weights[0]", weights[0]);
        require(vectors->dim() == 1 && vectors->numel() == expected, what, " is ", shape(*vectors),
                ", but the weights have ", expected, " ", sides, " in all; it has to be [", expected, "].");
        require_contiguous(what, *vectors, are_written);
        require_countable(what, *vectors);
    }
    return offsets;
}

// The weight as a matrix. One that lies too wildly is copied; `copies` keeps such copies alive.
inline Matrix as_matrix(const Tensor& weight, std::vector<Tensor>& copies) {
    Matrix matrix{weight.data_ptr(), num_rows(weight), num_columns(weight), weight.stride(0), 0, 1, 1};
    int num_strides =
        0;  // of the columns, after neighbours that continue each other are joined; from the innermost outwards
    int64_t size = 1, stride = 1;
    for (int64_t dimension = weight.dim() - 1; dimension >= 1 && weight.numel(); --dimension) {
        if (weight.size(dimension) == 1) continue;
        if (num_strides > 0 && weight.stride(dimension) == size * stride) {
            size *= weight.size(dimension);
        } else {
            if (num_strides == 1) matrix.inner_size = size, matrix.inner_stride = stride;
            ++num_strides;
            size = weight.size(dimension);
            stride = weight.stride(dimension);
        }
    }
    constexpr int64_t FAR = std::numeric_limits<int32_t>::max();
    if (num_strides > 2 || stride > FAR || matrix.inner_stride > FAR) {
        copies.push_back(torch::stable::contiguous(weight));
        return as_matrix(copies.back(), copies);
    }
    if (num_strides < 2) matrix.inner_size = matrix.columns, matrix.inner_stride = num_strides ? stride : 1;
    if (num_strides == 2) matrix.outer_stride = stride;
    return matrix;
}

}  // namespace distgan
