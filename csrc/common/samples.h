// A batch as samples: dimension 0 counts them, and the elements of each lie together in memory, in whatever order. What
// treats all elements of a sample alike then needs no strides.
#pragma once

#include <algorithm>

#include "portable.h"
#include "tasks.h"
#include "tensors.h"

namespace distgan {

struct Samples {
    int64_t number, size;  // `size` elements each

    static Samples of(const Tensor& tensor) {
        return {tensor.size(0), tensor.size(0) ? tensor.numel() / tensor.size(0) : 0};
    }
};

// Whether sample n is the stretch [n * size, (n + 1) * size) of memory: contiguous and channels-last tensors, for
// example. The fakes in distgan/ops/samples.py decide by the same rule; a tensor without elements counts as none of
// these.
inline bool has_dense_samples(const Tensor& tensor) {
    if (tensor.numel() == 0) return false;
    std::vector<std::pair<int64_t, int64_t>> dimensions;  // (stride, size)
    for (int64_t dimension = 1; dimension < tensor.dim(); ++dimension) {
        if (tensor.size(dimension) != 1) dimensions.emplace_back(tensor.stride(dimension), tensor.size(dimension));
    }
    std::sort(dimensions.begin(), dimensions.end());
    if (tensor.size(0) != 1) dimensions.emplace_back(tensor.stride(0), tensor.size(0));
    int64_t expected = 1;
    for (const auto& [stride, size] : dimensions) {
        if (stride != expected) return false;
        expected *= size;
    }
    return true;
}

inline Tensor with_dense_samples(const Tensor& tensor) {
    return has_dense_samples(tensor) ? tensor : torch::stable::contiguous(tensor);
}

// A stretch of one sample.
struct Piece {
    int64_t number;  // of all pieces
    int64_t sample, begin, length;
};

// The samples cut for the CPU's threads; by their shape alone, so that the order of every sum is the same at any number
// of threads.
class Pieces {
 public:
    explicit Pieces(const Samples& samples)
        : samples_(samples), per_sample_(larger(int64_t(1), ceil_div(samples.size, LONGEST))) {}

    int64_t per_sample() const { return per_sample_; }
    int64_t number() const { return samples_.number * per_sample_; }

    template <class Function>
    void for_each(const Function& function) const {
        const int64_t pieces_per_task = larger(int64_t(1), LONGEST / larger(int64_t(1), samples_.size));
        const int64_t num_tasks = ceil_div(number(), pieces_per_task);
        for_each_task(num_tasks, samples_.number * samples_.size, [&](int64_t task) {
            const int64_t end = smaller((task + 1) * pieces_per_task, number());
            for (int64_t piece = task * pieces_per_task; piece < end; ++piece) {
                const int64_t sample = piece / per_sample_, offset = piece % per_sample_ * LONGEST;
                function(
                    Piece{piece, sample, sample * samples_.size + offset, smaller(samples_.size - offset, LONGEST)});
            }
        });
    }

 private:
    static constexpr int64_t LONGEST = 16384;
    Samples samples_;
    int64_t per_sample_;
};

}  // namespace distgan
