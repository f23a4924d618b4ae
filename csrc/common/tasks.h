// Work of the CPU operators, cut into tasks by the shapes alone, so that no result depends on the number of threads.
#pragma once

#include <atomic>

#include "portable.h"
#include "tensors.h"

namespace distgan {

// Calls `function(number)` for every task. A thread fetches the next as it comes free, so unequal tasks balance.
// `num_elements` of all tasks says how many threads are worth waking.
template <class Function>
void for_each_task(int64_t num_tasks, int64_t num_elements, const Function& function) {
    constexpr int64_t ELEMENTS_PER_THREAD = 64 * 1024;
    const int64_t most = smaller(num_tasks, int64_t(torch::stable::get_num_threads()));
    const int64_t num_threads = smaller(most, larger(int64_t(1), num_elements / ELEMENTS_PER_THREAD));
    std::atomic<int64_t> next{0};
    const auto fetch = [&](int64_t, int64_t) {
        for (int64_t number; (number = next++) < num_tasks;) function(number);
    };
    if (num_threads > 1) {
        torch::stable::parallel_for(0, num_threads, 1, fetch);
    } else {
        fetch(0, 1);
    }
}

}  // namespace distgan
