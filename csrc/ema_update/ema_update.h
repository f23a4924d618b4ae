// What the CPU and the CUDA binding of ema_update share: what they refuse.
#pragma once

#include "../common/tensors.h"

namespace distgan {

inline void check_ema_update(const std::vector<Tensor>& average, const std::vector<Tensor>& weights, double decay) {
    require(average.size() == weights.size(), "average has ", average.size(), " tensors and weights ", weights.size(),
            "; pass as many of each.");
    require(decay >= 0 && decay <= 1, "decay is ", decay, ", but it is the share that the average keeps, from 0 to 1.");
    for (size_t layer = 0; layer < average.size(); ++layer) {
        const Argument mine("average", layer), theirs("weights", layer), first("average", 0);
        require_fp32(mine, average[layer]);
        require_fp32_or_bf16(theirs, weights[layer]);
        require_same_device(theirs, weights[layer], first, average[0]);
        require_same_device(mine, average[layer], first, average[0]);
        require_countable(mine, average[layer]);
        require(have_same_shape(average[layer], weights[layer]), mine, " is ", shape(average[layer]), " and ", theirs,
                " is ", shape(weights[layer]), "; they need one shape.");
        require(have_same_layout(average[layer], weights[layer]) && is_dense(average[layer]), mine, " and ", theirs,
                " lie differently in memory, or with gaps; pass both contiguous.");
    }
}

}  // namespace distgan
